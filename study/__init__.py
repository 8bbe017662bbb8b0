"""Many runs: their table, who works on it, and what it says."""
