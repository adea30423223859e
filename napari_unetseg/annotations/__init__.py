"""What a person painted, corrected and accepted."""
