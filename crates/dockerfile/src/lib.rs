//! The Dockerfile frontend: lexer, parser, expansion, linter, and conversion to LLB.
