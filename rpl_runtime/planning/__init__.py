"""Planners: whatever answers `plan`, in this process or in another, while robots move on."""
