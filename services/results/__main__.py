"""`python -m services.results`."""

from services.results.main import main

if __name__ == "__main__":
    main()
