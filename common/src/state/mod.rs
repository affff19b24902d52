//! The state stream: framing, schemas, errors.
