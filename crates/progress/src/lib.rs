//! The progress model and its faces: terminal, plain text and JSON lines.
