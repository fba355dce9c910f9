"""
Imports: what other programs export, as conversations of this store.

One module for each format reads one conversation, and `formats` tells which format it is.
`export_files` finds the conversations in files, with `json_values`, one at a time and in the order
in which they began. Nothing here touches a database: `eventstore.store.chat_import` writes what is
read here.
"""
