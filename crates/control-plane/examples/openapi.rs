//! Prints the OpenAPI document: `make openapi` writes it to `openapi/sandpiper.yaml`.

use std::io::{self, Write};

fn main() -> io::Result<()> {
    io::stdout().write_all(control_plane::openapi_yaml().as_bytes())
}
