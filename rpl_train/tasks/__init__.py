"""What training knows of a particular task."""
