"""What happens to objects that lie: deleted when they may be, checked while they may not."""
