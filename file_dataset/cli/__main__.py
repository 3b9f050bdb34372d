"""`python -m file_dataset.cli`: the same where the script is not on the PATH."""

from file_dataset.cli import main

main()
