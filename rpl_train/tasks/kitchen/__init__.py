"""The kitchen's recordings, scripted demonstrator, fast simulator and specialists."""
