"""Debugger rules: what is checked while a model trains. One class a file; base.py explains how to add one."""

from watch.rules.registry import check

__all__ = ["check"]
