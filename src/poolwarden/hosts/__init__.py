"""The hosts: the only room that names a pool of others, or imports one.

A family of hosts is a folder; `registry` lists each host once, and `loading`
imports its adapter.
"""
