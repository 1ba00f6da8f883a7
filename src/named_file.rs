//! Files that people name: the configuration, secrets, templates, definitions, certificates.
//!
//! To open a FIFO waits for a writer, and to read a terminal or another device waits for its data: the start would
//! hang without a word. So only regular files are read, after symbolic links, which Kubernetes uses for the files of
//! a mounted secret.
//!
//! **Pipes and `/dev/null`.** A file that is read once may also be `/dev/null`, or a pipe that the process has
//! inherited: `<(…)` of a shell, `/dev/stdin` or `/dev/fd/N`. The same shell starts the writer of such a pipe, and
//! the pipe ends with it. A FIFO with a name of its own in a folder is refused all the same, and so is a terminal.
//! Files that are read again, as templates and certificates are, must be regular.

use std::fs::{self, File, FileType, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// Maximum number of symbolic links that are followed, as in Linux.
const LINKS_MAX: usize = 40;

/// Reads a regular file, up to one byte more than `most`, so that the caller detects a larger one.
pub fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    check(path)?;
    // The file can be replaced by a FIFO after the check. Regular files ignore the flag.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    refuse(file.metadata()?.file_type())?;
    read_up_to(file, most)
}

/// Does the same with a file that is read once. It may be `/dev/null` or a pipe that this process has inherited.
pub fn read_once(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let kind = fs::metadata(path)?.file_type();
    if (kind.is_fifo() && is_descriptor(path)) || is_null(path, kind) {
        return read_up_to(File::open(path)?, most);
    }
    read(path, most)
}

/// Refuses a file that must not be opened, because that could wait forever.
pub fn check(path: &Path) -> io::Result<()> {
    refuse(fs::metadata(path)?.file_type())
}

/// Reads a source to its end, up to one byte more than `most`.
pub fn read_up_to(source: impl io::Read, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(most + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A folder is not refused here: to read it fails at once.
fn refuse(kind: FileType) -> io::Result<()> {
    let what = if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_char_device() || kind.is_block_device() {
        "a device"
    } else {
        return Ok(());
    };
    let sentence = format!("it is {what}; name a regular file, or a link to one");
    Err(io::Error::new(io::ErrorKind::InvalidInput, sentence))
}

fn is_null(path: &Path, kind: FileType) -> bool {
    kind.is_char_device() && fs::canonicalize(path).is_ok_and(|path| path == Path::new("/dev/null"))
}

/// Whether a path names an open file of this process, such as `/dev/stdin` and `/dev/fd/63`.
fn is_descriptor(path: &Path) -> bool {
    let Ok(descriptors) = fs::canonicalize("/proc/self/fd") else { return false };
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent: PathBuf = parent.unwrap_or(Path::new(".")).to_owned();
        if fs::canonicalize(&parent).is_ok_and(|parent| parent == descriptors) {
            return true;
        }
        match fs::read_link(&path) {
            Ok(target) => path = parent.join(target),
            Err(_) => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::fd::AsRawFd as _;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use rustix::fs::{CWD, FileType as Kind, Mode, mknodat};

    use super::*;

    #[test]
    fn a_fifo_a_socket_and_a_device_are_refused_at_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        mknodat(CWD, path("fifo"), Kind::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a FIFO");
        let _listener = UnixListener::bind(path("socket")).expect("a socket");
        symlink("fifo", path("link")).expect("a link");
        symlink("/dev/zero", path("zero")).expect("a link");
        for (name, what) in [("fifo", "FIFO"), ("link", "FIFO"), ("socket", "socket"), ("zero", "device")] {
            for read in [read, read_once] {
                let error = read(&path(name), 10).expect_err(name).to_string();
                assert_eq!(error, format!("it is a {what}; name a regular file, or a link to one"));
            }
        }
        assert!(read(Path::new("/dev/null"), 10).is_err());
        assert_eq!(read_once(Path::new("/dev/null"), 10).expect("empty"), b"");
        assert_eq!(read(&path("gone"), 10).expect_err("none").kind(), io::ErrorKind::NotFound);
    }

    /// Kubernetes mounts a secret as links to links.
    #[test]
    fn a_link_to_a_regular_file_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("..2026_01")).expect("a folder");
        fs::write(path("..2026_01/key"), "12345").expect("written");
        symlink("..2026_01", path("..data")).expect("a link");
        symlink("..data/key", path("key")).expect("a link");
        for read in [read, read_once] {
            assert_eq!(read(&path("key"), 5).expect("read"), b"12345");
            assert_eq!(read(&path("key"), 3).expect("read"), b"1234", "one byte more than the maximum");
        }
    }

    #[test]
    fn an_inherited_pipe_is_read_where_a_file_is_read_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let (reader, mut writer) = io::pipe().expect("a pipe");
        let path = PathBuf::from(format!("/dev/fd/{}", reader.as_raw_fd()));
        let link = folder.path().join("stdin");
        symlink(&path, &link).expect("a link");
        assert!(read(&path, 10).is_err(), "it cannot be read again");
        writer.write_all(b"12345").expect("written");
        drop(writer);
        assert_eq!(read_once(&link, 10).expect("read"), b"12345");
    }
}
