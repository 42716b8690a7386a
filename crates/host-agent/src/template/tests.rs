//! The store as its users see it.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use model::TemplateName;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::layout::Layout;
use super::testing::stored_build;
use super::*;

fn name(text: &str) -> TemplateName {
    text.parse().unwrap()
}

fn store() -> (TempDir, TemplateStore) {
    let directory = tempfile::tempdir().unwrap();
    let store = TemplateStore::open(directory.path(), b"agent").unwrap();
    (directory, store)
}

fn damage(store: &TemplateStore, template: &str) -> String {
    match store.get(&name(template)) {
        Err(error @ TemplateError::Damaged { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_built_template_names_its_files_and_boots_this_programs_agent() {
    let (directory, store) = store();
    let manifest = stored_build(directory.path(), &name("minimal"));
    let template = store.get(&name("minimal")).unwrap();
    assert_eq!(template.manifest, manifest);
    assert_eq!(template.kernel.version(), "6.1.0-0-test");
    let other = TemplateStore::open(directory.path(), b"newer agent").unwrap().get(&name("minimal")).unwrap();
    assert_ne!(template.initramfs, other.initramfs);
    for path in [template.image, template.kernel.image(), template.initramfs, other.initramfs] {
        assert!(path.is_file(), "{path:?}");
    }
}

#[test]
fn a_template_without_a_recipe_and_one_without_a_build_are_told_apart() {
    let (_directory, store) = store();
    let unknown = store.get(&name("nope")).unwrap_err();
    assert!(matches!(unknown, TemplateError::Recipe(RecipeError::Unknown { .. })), "{unknown:?}");
    assert!(unknown.to_string().contains("minimal, minimal-ubuntu, python311"), "{unknown}");
    assert!(matches!(store.get(&name("minimal")), Err(TemplateError::NotBuilt { .. })));
}

#[test]
fn what_is_not_what_a_build_left_is_damaged() {
    let (directory, store) = store();
    let layout = Layout::new(directory.path());
    let build = |template: &str| {
        let manifest = stored_build(directory.path(), &name(template));
        layout.build(&name(template), &manifest.build)
    };
    fs::write(build("no-magic").join("rootfs.ext4"), vec![0; 4096]).unwrap();
    assert!(damage(&store, "no-magic").contains("not an ext4 file system"));
    fs::remove_file(build("no-image").join("rootfs.ext4")).unwrap();
    assert!(damage(&store, "no-image").contains("image cannot be read"));
    fs::write(build("no-manifest").join("template.json"), "{").unwrap();
    assert!(damage(&store, "no-manifest").contains("manifest cannot be read"));
    fs::remove_dir_all(build("no-build")).unwrap();
    assert!(damage(&store, "no-build").contains("manifest cannot be read"));
    let foreign = build("foreign").join("template.json");
    fs::copy(build("other").join("template.json"), foreign).unwrap();
    assert!(damage(&store, "foreign").contains("is of other"));
    durable::point(&layout.current(&name("other")), "../../etc").unwrap();
    assert!(damage(&store, "other").contains("leads to no build"));
    build("no-kernel");
    fs::remove_dir_all(layout.kernels()).unwrap();
    assert!(damage(&store, "no-kernel").contains("kernel cannot be read"));
}

#[test]
fn a_list_has_what_can_be_built_and_what_was() {
    let (directory, store) = store();
    stored_build(directory.path(), &name("python311"));
    stored_build(directory.path(), &name("recipe-is-gone"));
    let listed = store.list().unwrap();
    let shown: Vec<(&str, bool)> = listed.iter().map(|one| (one.name.as_str(), one.template.is_ok())).collect();
    assert_eq!(
        shown,
        [
            ("base", false),
            ("code-runner-beta", false),
            ("minimal", false),
            ("minimal-ubuntu", false),
            ("python311", true),
            ("recipe-is-gone", true)
        ]
    );
}

#[test]
fn a_replaced_build_stays_until_nobody_uses_it() {
    let (directory, store) = store();
    let layout = Layout::new(directory.path());
    let minimal = name("minimal");
    let [unused, used, current] = [(); 3].map(|()| stored_build(directory.path(), &minimal).build);
    assert_eq!(store.get(&minimal).unwrap().manifest.build, current);
    let exists = |build| layout.build(&minimal, build).exists();
    assert!(exists(&unused) && exists(&used));
    store.prune(&HashSet::from([used.clone()])).unwrap();
    assert_eq!((exists(&unused), exists(&used), exists(&current)), (false, true, true));
    store.prune(&HashSet::new()).unwrap();
    assert_eq!((exists(&used), exists(&current)), (false, true));
    assert!(store.get(&minimal).is_ok());
}

#[test]
fn pruning_removes_kernels_that_no_build_needs_and_leaves_alone_what_is_being_built() {
    let (directory, store) = store();
    let layout = Layout::new(directory.path());
    let manifest = stored_build(directory.path(), &name("minimal"));
    let kernel = layout.kernel(&manifest.kernel_digest);
    let unneeded = layout.kernels().join("0000000000000000");
    testing::stored_kernel(&unneeded);
    let at_work = staging::Lock::try_take(&layout.locks().join("python311")).unwrap();
    store.prune(&HashSet::new()).unwrap();
    assert!(unneeded.exists());
    drop(at_work);
    store.prune(&HashSet::new()).unwrap();
    assert!(!unneeded.exists() && kernel.exists());
}

#[test]
fn opening_removes_what_a_killed_build_left() {
    let (directory, _store) = store();
    let left = directory.path().join("templates/.staging-0123456789abcdef");
    fs::create_dir_all(left.join("tree")).unwrap();
    fs::write(left.join("lock"), "").unwrap();
    TemplateStore::open(directory.path(), b"agent").unwrap();
    assert!(!left.exists());
}

#[tokio::test]
async fn a_machine_without_mmdebstrap_is_told_what_to_install() {
    let (directory, _store) = store();
    let tools = tempfile::tempdir().unwrap();
    for tool in ["apt-config", "apt-get", "depmod", "mke2fs", "unshare"] {
        fs::write(tools.path().join(tool), "").unwrap();
    }
    let path = ToolPath::of([tools.path().to_owned()]);
    let store = TemplateStore::open_with(directory.path(), b"agent", path).unwrap();
    let error = store.build(&name("minimal"), Force::No, Arc::new(Silent), CancellationToken::new()).await.unwrap_err();
    assert!(matches!(error, BuildError::MissingTool { tool: Tool::Mmdebstrap }), "{error:?}");
    assert!(error.to_string().contains("make setup"), "{error}");
    assert_no_traces(directory.path());
}

#[tokio::test]
async fn a_template_without_a_recipe_is_not_built() {
    let (directory, store) = store();
    let error = store.build(&name("nope"), Force::Yes, Arc::new(Silent), CancellationToken::new()).await.unwrap_err();
    assert!(matches!(error, BuildError::Recipe(RecipeError::Unknown { .. })), "{error:?}");
    assert_no_traces(directory.path());
}

#[tokio::test]
async fn a_small_disk_is_refused_before_anything_is_done() {
    let directory = tempfile::tempdir().unwrap();
    let disk = SmallDisk::on(directory.path());
    let store = TemplateStore::open(directory.path(), b"agent").unwrap();
    let built = store.build(&name("minimal"), Force::No, Arc::new(Silent), CancellationToken::new()).await;
    let error = built.unwrap_err();
    assert!(matches!(error, BuildError::NoSpace { available_mib: 0..=8, .. }), "{error:?}");
    assert!(error.is_out_of_space() && error.to_string().contains("2560 MiB"), "{error}");
    assert_no_traces(directory.path());
    drop(disk);
}

/// The packages come from the machine's real mirror, and the build is stopped while they are being unpacked.
#[tokio::test]
async fn a_build_that_is_cancelled_leaves_no_process_no_mount_and_no_file() {
    let (directory, store) = store();
    let cancel = CancellationToken::new();
    let canceller = Arc::new(CancelAt { line: "Unpacking ", cancel: cancel.clone(), step: Mutex::default() });
    let error = store.build(&name("minimal"), Force::No, canceller.clone(), cancel).await.unwrap_err();
    assert!(matches!(error, BuildError::Interrupted), "{error:?}");
    assert_eq!(*canceller.step.lock().unwrap(), Some(Step::Packages));
    assert_no_traces(directory.path());
    assert!(matches!(store.get(&name("minimal")), Err(TemplateError::NotBuilt { .. })));
}

/// Cancels when packages are being installed and a certain line comes.
struct CancelAt {
    line: &'static str,
    cancel: CancellationToken,
    step: Mutex<Option<Step>>,
}

impl Progress for CancelAt {
    fn step(&self, step: Step) {
        *self.step.lock().unwrap() = Some(step);
    }

    fn detail(&self, line: &str) {
        if *self.step.lock().unwrap() == Some(Step::Packages) && line.starts_with(self.line) {
            self.cancel.cancel();
        }
    }
}

/// Eight MiB mounted on a directory, for as long as it lives.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn on(directory: &'a Path) -> Self {
        rustix::mount::mount("tmpfs", directory, "tmpfs", rustix::mount::MountFlags::empty(), Some(c"size=8m"))
            .unwrap();
        Self(directory)
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        rustix::mount::unmount(self.0, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

/// Neither a staging directory, nor a template, nor a mount or a process that has to do with either.
fn assert_no_traces(data_dir: &Path) {
    let templates = durable::entries(&data_dir.join("templates")).unwrap();
    assert_eq!(templates, [data_dir.join("templates/.locks")]);
    let staging = data_dir.join("templates/.staging");
    let staging = staging.to_str().unwrap();
    assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains(staging));
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let command = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let root = fs::read_link(process.path().join("root")).unwrap_or_default();
        let uses = String::from_utf8_lossy(&command).contains(staging) || root.starts_with(staging);
        assert!(!uses, "{process:?} {}", String::from_utf8_lossy(&command));
    }
}

#[tokio::test]
async fn a_template_on_the_image_of_another_stores_no_second_one() {
    use std::os::unix::fs::MetadataExt as _;
    let (directory, store) = store();
    let variant = name("minimal-ubuntu");
    let recipe = store.recipe(&variant).unwrap();
    let share = async || {
        let base = store.get(&name("minimal")).unwrap();
        let built = share::build(&store, &variant, &recipe, &base, &Silent, &CancellationToken::new()).await.unwrap();
        let inode = |path: &Path| fs::metadata(path).unwrap().ino();
        assert_eq!(inode(&built.image), inode(&base.image));
        built.manifest
    };
    stored_build(directory.path(), &name("minimal"));
    let first = share().await;
    assert_eq!(first.defaults.user, "wrenn-user");
    assert_eq!(share().await.build, first.build, "what is up to date stays");
    // A base that was built anew has another image.
    let base = stored_build(directory.path(), &name("minimal"));
    let path = Layout::new(directory.path()).build(&name("minimal"), &base.build).join("template.json");
    let image = ImageFacts { digest: Digest::of(b"newer"), ..base.image.clone() };
    fs::remove_file(&path).unwrap();
    durable::write_json(&path, &Manifest { image: image.clone(), ..base }).unwrap();
    let second = share().await;
    assert_ne!(second.build, first.build);
    assert_eq!(second.image, image);
    store.prune(&HashSet::new()).unwrap();
    assert_eq!(store.get(&variant).unwrap().manifest, second);
}
