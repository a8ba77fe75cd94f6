"""Generated from guard.proto by scripts/make_guardpb; not edited by hand."""
