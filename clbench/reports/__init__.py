"""What is shown of results: tables, plots, pages, the leaderboard. Imports no torch."""
