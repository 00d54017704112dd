"""`python -m residency`: the same as the console command."""

from residency.cli import main

main()
