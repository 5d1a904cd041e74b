"""Features and matches of more photos than one machine holds: at any address, as Parquet, by Ray's engine or without.

It needs the extra `scale`. What reads, decodes, batches and matches is what a single machine's commands use.
"""
