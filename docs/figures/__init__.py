"""The figures of docs/concepts/, and their numbers: `make figures` draws them anew."""
