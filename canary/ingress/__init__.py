"""The live shadow ingress: it takes what a proxy mirrors, and writes it to a spool.

Data flows ``door`` (answers 202 at once) -> ``waiting`` (bounded) -> ``recorder`` (one
thread: ``body``, ``prompts``, ``identity``, ``redact``) -> ``spool`` (files of whole
lines). A run reads the spool as traffic; nothing here knows a run or an arm.
"""
