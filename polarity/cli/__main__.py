from polarity.cli import main

main()
