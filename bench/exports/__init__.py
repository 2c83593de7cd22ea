"""The leaderboard for other programs and other people's web servers: one file a format."""
