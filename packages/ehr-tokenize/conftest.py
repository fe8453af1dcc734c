"""What pytest must not import while it collects doctests."""

# MEDS_transforms imports a pytest plugin whose source has an invalid escape sequence: an error under
# `filterwarnings = error`. The stages hold no doctest; tests run them as processes of their own.
collect_ignore = ["src/ehr_tokenize/meds_stages/stages.py"]
