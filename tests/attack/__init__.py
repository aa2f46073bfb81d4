"""Attacks: each promise of docs/security.md under somebody who tries to break it."""
