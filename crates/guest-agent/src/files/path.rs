//! Paths as clients write them. Pure: whether anything is there, and what links mean, is the kernel's to say.

/// Why a text is not a path.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Only the caller's own home can be written short.
    #[error("'{0}': only ~ and ~/… are expanded")]
    OtherHome(String),
    /// No path contains a zero byte.
    #[error("path contains a zero byte")]
    Nul,
}

/// `path` made absolute: as it is when it begins with a slash, else below `home`, or below `workdir` when it is empty.
/// `.` and `..` of a relative path are taken out as text; those of an absolute path stay and mean what they mean.
pub fn resolve(path: &str, home: &str, workdir: Option<&str>) -> Result<String, PathError> {
    let path = if path.is_empty() { workdir.unwrap_or_default() } else { path };
    if path.contains('\0') {
        return Err(PathError::Nul);
    }
    if path.starts_with('/') {
        return Ok(path.to_owned());
    }
    let below_home = match path.strip_prefix('~') {
        None => path,
        Some(rest) if rest.is_empty() || rest.starts_with('/') => rest,
        Some(_) => return Err(PathError::OtherHome(path.to_owned())),
    };
    Ok(clean(&format!("{home}/{below_home}")))
}

/// The last part of an absolute path.
pub fn base_name(path: &str) -> &str {
    match path.trim_end_matches('/').rsplit('/').next() {
        Some("") | None => "/",
        Some(name) => name,
    }
}

fn clean(absolute: &str) -> String {
    let mut parts = Vec::new();
    for part in absolute.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_kind_of_path_has_its_place() {
        let check = |path: &str, expect: &str| assert_eq!(resolve(path, "/home/user", None).unwrap(), expect, "{path}");
        check("/etc/../x", "/etc/../x");
        check("a", "/home/user/a");
        check("./a//b/", "/home/user/a/b");
        check("../other", "/home/other");
        check("../../../..", "/");
        check("~", "/home/user");
        check("~/a", "/home/user/a");
        check("", "/home/user");
        assert_eq!(resolve("", "/home/user", Some("/srv")).unwrap(), "/srv");
        assert_eq!(resolve("", "/home/user", Some("code")).unwrap(), "/home/user/code");
        assert_eq!(resolve("a", "/home/user", Some("/srv")).unwrap(), "/home/user/a");
        assert_eq!(resolve("~root", "/h", None), Err(PathError::OtherHome("~root".into())));
        assert_eq!(resolve("a\0", "/h", None), Err(PathError::Nul));
        assert_eq!(resolve("", "/h", Some("a\0")), Err(PathError::Nul));
    }

    #[test]
    fn base_names_are_never_empty() {
        let names = ["/a/b", "/a/b/", "/", "//", "a"].map(base_name);
        assert_eq!(names, ["b", "b", "/", "/", "a"]);
    }

    proptest! {
        #[test]
        fn a_relative_path_comes_out_absolute_and_clean(path in "[a~./]{0,30}", home in "(/[a-z]{1,4}){0,3}") {
            let Ok(resolved) = resolve(&path, &home, None) else {
                prop_assert!(path.starts_with('~'));
                return Ok(());
            };
            prop_assert!(resolved.starts_with('/'));
            if !path.starts_with('/') {
                let dirty = |part: &str| part == "." || part == "..";
                prop_assert!(!resolved[1..].split('/').any(dirty), "{}", resolved);
                prop_assert_eq!(resolve(&resolved, &home, None), Ok(resolved.clone()));
            }
        }

        #[test]
        fn any_text_is_survived(path in ".{0,60}", home in ".{0,20}") {
            if let Ok(resolved) = resolve(&path, &home, None) {
                prop_assert!(resolved.starts_with('/') && !base_name(&resolved).is_empty());
            }
        }
    }
}
