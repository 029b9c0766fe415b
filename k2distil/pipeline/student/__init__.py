"""The training and the tests of a student."""
