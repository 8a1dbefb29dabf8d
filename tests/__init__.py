"""Tests of poolwarden; `contract` holds the fault table that every host has to pass."""
