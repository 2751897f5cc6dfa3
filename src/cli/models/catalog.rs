//! Models by name: pcache's own folder, and what other programs have downloaded. Nothing is copied or changed.
//!
//! The layouts are documented by their programs: Ollama keeps manifests (JSON) that name blobs by their SHA-256
//! (<https://github.com/ollama/ollama/blob/main/docs/faq.mdx>), LM Studio `publisher/model/file.gguf`
//! (<https://lmstudio.ai/docs/app/basics/import-model>), the Hugging Face cache
//! `models--publisher--model/snapshots/revision/file.gguf`
//! (<https://huggingface.co/docs/huggingface_hub/matchers/manage-cache>), llama.cpp one folder of files.

use std::path::{Path, PathBuf};

use anyhow::Result;
use same_file::Handle;
use serde::Deserialize;

use crate::cli::app::{user_cache, user_home};
use pcache_engine::gguf::Header;

/// Folders within folders at most: more is no models folder.
const MAX_DEPTH: usize = 6;
/// A manifest is a page of JSON; more than this is something else.
const MAX_MANIFEST_BYTES: u64 = 1 << 20;

/// A model file that can be named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The name for `-m`.
    pub name: String,
    /// A longer name that tells it from others of the same name.
    pub full: String,
    /// Names and longer names of links that lead to the same file.
    pub others: Vec<String>,
    /// Whose folder it lies in.
    pub place: &'static str,
    /// The file.
    pub path: PathBuf,
}

impl Found {
    /// Why it cannot be used, as far as its header says.
    pub fn problem(&self) -> Option<String> {
        let header = Header::read(&self.path);
        let bytes = std::fs::metadata(&self.path).map_or(0, |meta| meta.len());
        header.map_or_else(|e| Some(e.to_string()), |header| header.problem(bytes))
    }

    /// All names that it is found by.
    fn names(&self) -> impl Iterator<Item = &str> {
        [self.name.as_str(), self.full.as_str()].into_iter().chain(self.others.iter().map(String::as_str))
    }
}

/// The folders that are looked into.
pub struct Places {
    own: PathBuf,
    ollama: Vec<PathBuf>,
    lm_studio: Vec<PathBuf>,
    hugging_face: Vec<PathBuf>,
    llama_cpp: Vec<PathBuf>,
}

impl Places {
    /// Those of the user, by the environment variables of each program or its usual folder.
    pub fn of_user() -> Result<Self> {
        let home = user_home()?;
        let named = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let cache = named("XDG_CACHE_HOME").unwrap_or_else(|| home.join(".cache"));
        let or =
            |named: Option<PathBuf>, usual: &[PathBuf]| named.map_or_else(|| usual.to_vec(), |p| vec![p]);
        let hub = named("HF_HUB_CACHE").or_else(|| named("HF_HOME").map(|p| p.join("hub")));
        Ok(Self {
            own: user_cache()?.join("models"),
            ollama: or(
                named("OLLAMA_MODELS"),
                &[home.join(".ollama/models"), "/usr/share/ollama/.ollama/models".into()],
            ),
            lm_studio: vec![home.join(".lmstudio/models"), cache.join("lm-studio/models")],
            hugging_face: or(hub, &[cache.join("huggingface/hub")]),
            llama_cpp: or(
                named("LLAMA_CACHE"),
                &[cache.join("llama.cpp"), home.join("Library/Caches/llama.cpp")],
            ),
        })
    }

    /// pcache's own models folder.
    pub fn own(&self) -> &Path {
        &self.own
    }

    /// All models, pcache's own first, each file once: links to it are further names of it.
    pub fn models(&self) -> Vec<Found> {
        let own = |path: &Path| (stem(path), relative(&self.own, path));
        let mut found = sorted(files(&self.own, OWN, own));
        for folder in &self.ollama {
            found.extend(sorted(ollama(folder)));
        }
        for folder in &self.lm_studio {
            let name = |path: &Path| (stem(path), relative(folder, path));
            found.extend(sorted(files(folder, "LM Studio", name)));
        }
        for folder in &self.hugging_face {
            let name = |path: &Path| (stem(path), hugging_face_name(folder, path));
            found.extend(sorted(files(folder, "Hugging Face", name)));
        }
        for folder in &self.llama_cpp {
            let name = |path: &Path| (stem(path), relative(folder, path));
            found.extend(sorted(files(folder, "llama.cpp", name)));
        }
        each_once(found)
    }
}

impl Places {
    /// Folders that may not be looked into, so that what is in them is not known.
    pub fn unreadable(&self) -> Vec<PathBuf> {
        let all = [&self.ollama, &self.lm_studio, &self.hugging_face, &self.llama_cpp].into_iter().flatten();
        let mut found = Vec::new();
        all.chain([&self.own]).for_each(|folder| closed(folder, MAX_DEPTH, &mut found));
        found
    }
}

fn closed(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => found.push(folder.to_owned()),
        Err(_) => {}
        Ok(entries) if depth > 0 => {
            let folders = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir()));
            folders.for_each(|entry| closed(&entry.path(), depth - 1, found));
        }
        Ok(_) => {}
    }
}

/// The place of pcache's own models.
pub const OWN: &str = "pcache";

/// Each file once, whatever leads to it. Its own name comes before those of links.
fn each_once(all: Vec<Found>) -> Vec<Found> {
    let mut once: Vec<(Option<Handle>, Found)> = Vec::new();
    for found in all {
        let handle = Handle::from_path(&found.path).ok();
        match once.iter_mut().find(|(known, _)| handle.is_some() && *known == handle) {
            None => once.push((handle, found)),
            Some((_, known)) => {
                let is_link =
                    |found: &Found| found.path.symlink_metadata().is_ok_and(|meta| meta.is_symlink());
                let found = match is_link(known) && !is_link(&found) && known.place == found.place {
                    true => std::mem::replace(known, found),
                    false => found,
                };
                known.others.extend([found.name, found.full]);
                known.others.extend(found.others);
            }
        }
    }
    once.into_iter().map(|(_, found)| found).collect()
}

/// The models that `text` names: those with exactly this name, whatever the case; else those of which it is a part. Those that
/// cannot be used are named only where no other is.
pub fn named(models: &[Found], text: &str) -> Vec<Found> {
    let text = text.to_lowercase();
    let text = text.strip_suffix(".gguf").unwrap_or(&text);
    // Folder and name, of a model that lies deeper, and Ollama's own short form.
    let ends_with = |name: &str| name.strip_suffix(text).is_some_and(|before| before.ends_with('/'));
    let is_exact = |name: &str| {
        name == text || text.contains('/') && ends_with(name) || name.strip_suffix(":latest") == Some(text)
    };
    let by = |fits: &dyn Fn(&str) -> bool| -> Vec<Found> {
        let found = models.iter().filter(|found| found.names().any(|name| fits(&name.to_lowercase())));
        let found: Vec<Found> = found.cloned().collect();
        let usable: Vec<Found> = found.iter().filter(|found| found.problem().is_none()).cloned().collect();
        if usable.is_empty() { found } else { usable }
    };
    if text.is_empty() {
        return Vec::new();
    }
    let found = by(&is_exact);
    let own: Vec<&Found> = found.iter().filter(|found| found.place == OWN).collect();
    match (found.as_slice(), own.as_slice()) {
        ([], _) => by(&|name| name.contains(text)),
        // The same name in several folders: pcache's own folder comes first.
        (_, [only]) => vec![(*only).clone()],
        _ => found,
    }
}

fn sorted(mut found: Vec<Found>) -> Vec<Found> {
    found.sort_by(|a, b| (&a.name, &a.path).cmp(&(&b.name, &b.path)));
    found
}

/// The GGUF files under a folder; `name` gives a file's short and full name.
fn files(folder: &Path, place: &'static str, name: impl Fn(&Path) -> (String, String)) -> Vec<Found> {
    let mut paths = Vec::new();
    walk(folder, MAX_DEPTH, &mut |path| {
        if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) {
            paths.push(path.to_owned());
        }
    });
    let model = |path: PathBuf| {
        let (name, full) = name(&path);
        Found { name, full, others: Vec::new(), place, path }
    };
    paths.into_iter().map(model).collect()
}

/// Visits the files under a folder; folders that cannot be read are passed over.
fn walk(folder: &Path, depth: usize, visit: &mut dyn FnMut(&Path)) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        // Hidden files are none: macOS leaves some beside each file on other file systems.
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            if depth > 0 {
                walk(&path, depth - 1, visit);
            }
        } else if path.is_file() {
            visit(&path);
        }
    }
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

fn relative(folder: &Path, path: &Path) -> String {
    path.strip_prefix(folder).unwrap_or(path).with_extension("").to_string_lossy().into_owned()
}

/// `publisher/model/file` for `models--publisher--model/snapshots/revision/file.gguf`.
fn hugging_face_name(folder: &Path, path: &Path) -> String {
    let relative = relative(folder, path);
    let mut parts = relative.split('/');
    let repository = parts.next().and_then(|r| r.strip_prefix("models--")).map(|r| r.replace("--", "/"));
    match (repository, parts.nth(1)) {
        (Some(repository), Some(_revision)) => {
            format!("{repository}/{}", parts.collect::<Vec<_>>().join("/"))
        }
        _ => relative,
    }
}

/// Fields of an Ollama manifest that are used.
#[derive(Deserialize)]
struct Manifest {
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layer {
    media_type: String,
    digest: String,
}

/// The models that Ollama's manifests name.
fn ollama(folder: &Path) -> Vec<Found> {
    let manifests = folder.join("manifests");
    let mut found = Vec::new();
    walk(&manifests, MAX_DEPTH, &mut |path| {
        if let Some(path_of_model) = ollama_blob(folder, path) {
            let full = relative_tag(&manifests, path);
            let name = full.strip_prefix("registry.ollama.ai/").unwrap_or(&full);
            let name = name.strip_prefix("library/").unwrap_or(name).to_owned();
            found.push(Found { name, full, others: Vec::new(), place: "Ollama", path: path_of_model });
        }
    });
    found
}

/// `host/namespace/model:tag` for `host/namespace/model/tag`.
fn relative_tag(manifests: &Path, path: &Path) -> String {
    let text = path.strip_prefix(manifests).unwrap_or(path).to_string_lossy().into_owned();
    match text.rsplit_once('/') {
        Some((model, tag)) => format!("{model}:{tag}"),
        None => text,
    }
}

/// The blob with the weights that a manifest names, if it is there.
fn ollama_blob(folder: &Path, manifest: &Path) -> Option<PathBuf> {
    if std::fs::metadata(manifest).ok()?.len() > MAX_MANIFEST_BYTES {
        return None;
    }
    let manifest: Manifest = serde_json::from_slice(&std::fs::read(manifest).ok()?).ok()?;
    let weights = |l: &&Layer| l.media_type == "application/vnd.ollama.image.model";
    let digest = &manifest.layers.iter().find(weights)?.digest;
    // A digest is a name for a file here, so it has to be one and nothing else.
    let hex = digest.strip_prefix("sha256:").filter(|h| h.len() == 64)?;
    let path = folder.join("blobs").join(format!("sha256-{hex}"));
    (hex.bytes().all(|b| b.is_ascii_hexdigit()) && path.is_file()).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn write(root: &Path, name: &str, content: &str) {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    fn places(root: &Path) -> Places {
        Places {
            own: root.join("own"),
            ollama: vec![root.join("ollama")],
            lm_studio: vec![root.join("lm")],
            hugging_face: vec![root.join("hf")],
            llama_cpp: vec![root.join("llama")],
        }
    }

    /// A file that is a model.
    fn model(root: &Path, name: &str) {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let tiny = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/models/tiny-llama.gguf");
        std::fs::copy(tiny, path).unwrap();
    }

    fn example() -> TempDir {
        let dir = TempDir::new().unwrap();
        let hex = "a".repeat(64);
        let manifest = |digest: &str| {
            format!(
                r#"{{"schemaVersion":2,"layers":[{{"mediaType":"application/vnd.ollama.image.model","digest":"{digest}","size":3}}]}}"#
            )
        };
        model(dir.path(), "own/mine.gguf");
        write(
            dir.path(),
            "ollama/manifests/registry.ollama.ai/library/qwen2.5/0.5b",
            &manifest(&format!("sha256:{hex}")),
        );
        write(
            dir.path(),
            "ollama/manifests/registry.ollama.ai/library/evil/latest",
            &manifest("sha256:../../own/mine.gguf"),
        );
        write(
            dir.path(),
            "ollama/manifests/registry.ollama.ai/library/gone/latest",
            &manifest(&format!("sha256:{}", "b".repeat(64))),
        );
        model(dir.path(), &format!("ollama/blobs/sha256-{hex}"));
        model(dir.path(), "lm/unsloth/Phi-4-GGUF/phi-4-Q4_K_M.gguf");
        write(dir.path(), "lm/unsloth/Phi-4-GGUF/mmproj-phi-4.gguf", "z");
        model(dir.path(), "hf/models--bart--Gemma-GGUF/snapshots/abc/gemma-q4.gguf");
        write(dir.path(), "hf/models--bart--Gemma-GGUF/snapshots/abc/README.md", "g");
        model(dir.path(), "llama/mine.gguf");
        dir
    }

    #[test]
    fn each_programs_models_are_found_by_name() {
        let dir = example();
        let models = places(dir.path()).models();
        let names: Vec<_> = models.iter().map(|f| (f.place, f.name.as_str(), f.full.as_str())).collect();
        assert_eq!(
            names,
            [
                ("pcache", "mine", "mine"),
                ("Ollama", "qwen2.5:0.5b", "registry.ollama.ai/library/qwen2.5:0.5b"),
                ("LM Studio", "mmproj-phi-4", "unsloth/Phi-4-GGUF/mmproj-phi-4"),
                ("LM Studio", "phi-4-Q4_K_M", "unsloth/Phi-4-GGUF/phi-4-Q4_K_M"),
                ("Hugging Face", "gemma-q4", "bart/Gemma-GGUF/gemma-q4"),
                ("llama.cpp", "mine", "mine"),
            ]
        );
    }

    #[test]
    fn a_name_is_exact_or_a_part_and_never_silently_one_of_several() {
        let dir = example();
        let models = places(dir.path()).models();
        let found = |text: &str| named(&models, text).into_iter().map(|f| f.full).collect::<Vec<_>>();
        assert_eq!(found("QWEN2.5:0.5b"), ["registry.ollama.ai/library/qwen2.5:0.5b"]);
        assert_eq!(found("phi-4"), ["unsloth/Phi-4-GGUF/phi-4-Q4_K_M"]);
        assert_eq!(found("bart/gemma-gguf/gemma-q4"), ["bart/Gemma-GGUF/gemma-q4"]);
        assert_eq!(named(&models, "mine").len(), 1, "pcache's own folder comes first");
        assert_eq!(
            found("q"),
            [
                "registry.ollama.ai/library/qwen2.5:0.5b",
                "unsloth/Phi-4-GGUF/phi-4-Q4_K_M",
                "bart/Gemma-GGUF/gemma-q4"
            ]
        );
        assert!(found("").is_empty() && found("nothing").is_empty());
    }

    #[test]
    fn a_file_counts_once_under_each_of_its_names() {
        let dir = TempDir::new().unwrap();
        model(dir.path(), "own/qwen.gguf");
        std::os::unix::fs::symlink("qwen.gguf", dir.path().join("own/default.gguf")).unwrap();
        std::fs::hard_link(dir.path().join("own/qwen.gguf"), dir.path().join("own/z.gguf")).unwrap();
        write(dir.path(), "own/._qwen.gguf", "\0");
        let models = places(dir.path()).models();
        assert_eq!(models.iter().map(|f| f.name.as_str()).collect::<Vec<_>>(), ["qwen"]);
        for name in ["qwen", "default", "z", "Qwen.gguf"] {
            assert_eq!(named(&models, name), models, "{name}");
        }
    }

    #[test]
    fn models_of_one_name_are_told_apart_by_their_folders() {
        let dir = TempDir::new().unwrap();
        model(dir.path(), "own/q4/model.gguf");
        model(dir.path(), "own/q8/model.gguf");
        let models = places(dir.path()).models();
        let found = |text: &str| named(&models, text).into_iter().map(|f| f.full).collect::<Vec<_>>();
        assert_eq!(found("model"), ["q4/model", "q8/model"]);
        assert_eq!(found("q8/model"), ["q8/model"]);
    }
}
