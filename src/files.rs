//! Finds and reads function files, and keeps the line of each field. `nanofaas_core::spec` decides whether a
//! function is valid. `serve --functions`, `apply -f` and `simulate` call this module.

mod build;
mod node;

pub(crate) use build::{BuildProgress, build, spinner};

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use nanofaas_core::spec::{FieldError, FunctionDraft, Json};

use node::Located;

/// The longest function file, in bytes: the limit of the API.
pub(crate) const FILE_LEN_MAX: u64 = 1024 * 1024;
const FOLDER_DEPTH_MAX: usize = 16;
const FUNCTIONS_MAX: usize = 10_000;

#[derive(Clone, Debug)]
pub(crate) struct FunctionFile {
    pub(crate) path: PathBuf,
    /// The line where its YAML document begins, counted from 1.
    pub(crate) line: u32,
    /// The description of the function. Its `local.directory` is absolute.
    pub(crate) draft: FunctionDraft,
    /// The line of each field, by the field's path in a `FieldError`.
    lines: BTreeMap<String, u32>,
}

impl FunctionFile {
    /// Returns `file:line: field: message`, with the line of the field or of its nearest known parent.
    pub(crate) fn locate(&self, fault: &FieldError) -> String {
        format!(
            "{}:{}: {fault}",
            self.path.display(),
            self.line_of(&fault.field)
        )
    }

    /// Returns a warning for each unknown field, which the server ignores.
    pub(crate) fn ignored(&self) -> Vec<String> {
        let message = "is not a field of a function, and is ignored";
        let unknown = self.draft.unknown_fields().into_iter();
        unknown
            .map(|field| self.locate(&FieldError::new(field, message)))
            .collect()
    }

    fn line_of(&self, field: &str) -> u32 {
        let mut path = field;
        loop {
            if let Some(line) = self.lines.get(path) {
                return *line;
            }
            match path.rfind(['.', '[']) {
                Some(at) => path = &path[..at],
                None => return self.line,
            }
        }
    }

    pub(crate) fn place(&self) -> String {
        format!("{}:{}", self.path.display(), self.line)
    }
}

/// The reasons why files could not be read, one on each line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) struct FilesError(pub(crate) Vec<String>);

impl fmt::Display for FilesError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0.join("\n"))
    }
}

/// Reads the files and folders in the order of `paths`. Of a folder, reads the function files in it and below
/// it (see `find`). Fails if two functions have the same name.
pub(crate) fn read(paths: &[PathBuf]) -> Result<Vec<FunctionFile>, FilesError> {
    let functions = read_all(paths)?;
    let errors = repeated_names(&functions);
    if errors.is_empty() {
        Ok(functions)
    } else {
        Err(FilesError(errors))
    }
}

/// Reads a file or a folder that has one function.
pub(crate) fn read_one(path: &Path) -> Result<FunctionFile, FilesError> {
    let mut functions = read_all(&[path.to_owned()])?;
    match (functions.pop(), functions.len()) {
        (Some(function), 0) => Ok(function),
        (_, others) => {
            let (count, path) = (others + 1, path.display());
            let message = format!("{path}: has {count} functions; give a file with one");
            Err(FilesError(vec![message]))
        }
    }
}

fn read_all(paths: &[PathBuf]) -> Result<Vec<FunctionFile>, FilesError> {
    let mut errors = Vec::new();
    let mut functions = Vec::new();
    for path in paths {
        let mut files = Vec::new();
        if let Err(error) = find(path, &mut files) {
            errors.push(error);
        }
        for file in files {
            match read_file(&file) {
                Ok(read) => functions.extend(read),
                Err(error) => errors.push(error),
            }
        }
    }
    if functions.len() > FUNCTIONS_MAX {
        errors.push(format!("more than {FUNCTIONS_MAX} functions"));
    }
    if errors.is_empty() {
        Ok(functions)
    } else {
        Err(FilesError(errors))
    }
}

/// Reads the functions in a text. `path` is for messages; the functions run in `directory`.
pub(crate) fn read_text(
    path: &Path,
    text: &str,
    directory: &Path,
) -> Result<Vec<FunctionFile>, String> {
    let name = path.display();
    let documents = node::documents(text).map_err(|(line, error)| {
        let line = line.max(1);
        format!("{name}:{line}: {error}")
    })?;
    if documents.is_empty() {
        return Err(format!("{name}:1: there is no function in this file"));
    }
    let mut functions = Vec::with_capacity(documents.len());
    for Located { line, json, lines } in documents {
        let draft =
            FunctionDraft::from_json(json).map_err(|fault| format!("{name}:{line}: {fault}"))?;
        let mut function = FunctionFile {
            path: path.to_owned(),
            line,
            draft,
            lines,
        };
        set_directory(&mut function.draft, directory);
        functions.push(function);
    }
    Ok(functions)
}

/// Makes the working folder absolute. A relative path begins at the file's own folder, which is also the
/// default.
fn set_directory(draft: &mut FunctionDraft, folder: &Path) {
    let given = draft.get("local.directory");
    let directory = match given {
        None => folder.to_owned(),
        Some(Json::Text(relative)) if !relative.is_empty() => folder.join(relative),
        Some(_) => return,
    };
    // A draft cannot hold a path that is not UTF-8.
    if let Some(directory) = directory.to_str() {
        draft.set("local.directory", Json::from(directory));
    }
}

fn read_file(path: &Path) -> Result<Vec<FunctionFile>, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let file = File::open(path).map_err(failed)?;
    let is_regular = file.metadata().map_err(failed)?.is_file();
    let mut bytes = Vec::new();
    // Limit the read itself, because the length of a pipe or a device is not known in advance.
    file.take(FILE_LEN_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > FILE_LEN_MAX {
        let name = path.display();
        return Err(format!(
            "{name}: a function file is at most {FILE_LEN_MAX} bytes, is longer"
        ));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let sound = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..sound]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count()
            + 1;
        format!("{}:{line}: the file is not UTF-8", path.display())
    })?;
    read_text(path, &text, &folder_of(path, is_regular).map_err(failed)?)
}

/// Returns the folder in which the functions of a file run: the file's own folder. A pipe is in no folder, so
/// its functions run in the current one.
fn folder_of(path: &Path, is_regular: bool) -> std::io::Result<PathBuf> {
    if !is_regular {
        return std::env::current_dir();
    }
    let absolute = fs::canonicalize(path)?;
    let folder = absolute.parent().unwrap_or_else(|| Path::new("/"));
    Ok(folder.to_owned())
}

/// Adds a file, or the function files below a folder, to `files`. Hidden folders, build folders and folders
/// that are nested too deep are skipped.
fn find(path: &Path, files: &mut Vec<PathBuf>) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    if !fs::metadata(path).map_err(failed)?.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    find_below(path, FOLDER_DEPTH_MAX, files).map_err(failed)?;
    if files.is_empty() {
        let name = path.display();
        return Err(format!(
            "{name}: no function.yaml or *.function.yaml in or below this folder"
        ));
    }
    Ok(())
}

fn find_below(folder: &Path, levels: usize, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    let mut entries = fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| !name.starts_with('.')) else {
            continue;
        };
        // A link to a folder is skipped, because it could lead back to a parent folder.
        if entry.file_type()?.is_dir() {
            let built = matches!(name, "target" | "node_modules" | "__pycache__");
            if levels > 0 && !built {
                find_below(&entry.path(), levels - 1, files)?;
            }
        } else if is_function_file(name) && fs::metadata(entry.path())?.is_file() {
            files.push(entry.path());
        }
    }
    Ok(())
}

fn is_function_file(name: &str) -> bool {
    let stems = [".yaml", ".yml", ".json"]
        .iter()
        .filter_map(|end| name.strip_suffix(end));
    stems
        .into_iter()
        .any(|stem| stem == "function" || stem.ends_with(".function"))
}

fn repeated_names(functions: &[FunctionFile]) -> Vec<String> {
    let mut first: BTreeMap<&str, &FunctionFile> = BTreeMap::new();
    let mut errors = Vec::new();
    for function in functions {
        let Some(name) = function.draft.name() else {
            continue;
        };
        match first.get(name) {
            Some(other) => {
                let message = format!("{name:?} is also the function of {}", other.place());
                errors.push(function.locate(&FieldError::new("name", message)));
            }
            None => {
                first.insert(name, function);
            }
        }
    }
    errors
}

#[cfg(test)]
mod tests;
