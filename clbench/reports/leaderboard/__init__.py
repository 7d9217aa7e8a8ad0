"""The leaderboard: records with their evidence, what follows from them, and runs that confirm it. Imports no torch."""

from clbench.reports.leaderboard.board import row_id, rows_of
from clbench.reports.leaderboard.page import readme
from clbench.reports.leaderboard.site import write_site
from clbench.reports.leaderboard.store import Submission, check, read_board, submit
from clbench.reports.rows import Row

__all__ = ["Row", "Submission", "check", "read_board", "readme", "row_id", "rows_of", "submit", "write_site"]
