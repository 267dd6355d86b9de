"""Tests of the study of mission memory."""
