//! BuildKit's low-level build definition (LLB): typed operations, decoding, encoding, validation and a builder.
