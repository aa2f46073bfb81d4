"""From two torch modules to a bundle, behind a parity gate."""
