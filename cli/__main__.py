"""``python -m cli`` is ``neurons``."""

from cli.main import main

main()
