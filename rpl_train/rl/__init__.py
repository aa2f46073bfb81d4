"""Relay reinforcement fine-tuning: rollouts, rewards, value baseline, NPG update."""
