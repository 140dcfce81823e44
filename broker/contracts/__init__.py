"""What every room agrees on: errors, envelopes, options, subjects, codec and the seam. No I/O, no imports of ours."""
