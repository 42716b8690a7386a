//! Paths as callers write them, resolved in the guest.
#![no_main]

#[path = "../../crates/guest-agent/src/files/path.rs"]
#[allow(dead_code, missing_docs, reason = "a module of a program, of which this uses a part")]
mod path;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|words: (&str, Option<&str>)| {
    let (text, workdir) = words;
    let Ok(resolved) = path::resolve(text, "/home/user", workdir) else { return };
    assert!(resolved.starts_with('/') && !resolved.contains('\0'), "{resolved:?}");
    assert!(!path::base_name(&resolved).is_empty());
    let given = if text.is_empty() { workdir.unwrap_or_default() } else { text };
    if !given.starts_with('/') {
        // Nothing of a relative path is left to the kernel.
        assert!(resolved.split('/').all(|part| part != ".." && part != "."), "{resolved:?}");
        assert_eq!(path::resolve(&resolved, "/", None).as_deref(), Ok(resolved.as_str()));
    }
});
