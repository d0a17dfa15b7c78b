"""What a device does: fetch what its channel offers, check it beside what runs, take it over, and go back."""
