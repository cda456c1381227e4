"""Tests of the protect stage."""
