"""The guided acceptance of a robot: may this robot run this bundle?"""
