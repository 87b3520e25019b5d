//! What to do where the sandbox of a service is in the way.

use std::io;
use std::path::Path;

/// What lets the packaged service write below a path.
pub(crate) fn lets_write(path: &Path) -> String {
    format!("{}, {}", makes(path), mend(&format!("ReadWritePaths=-{}", path.display())))
}

/// A directory that is the service's.
pub(crate) fn makes(directory: &Path) -> String {
    format!("install -d -o seawall -g seawall -m 750 {}", directory.display())
}

/// What lets it read what is in a directory. Below /home nothing is bound where that is inaccessible, and not merely empty.
pub(crate) fn lets_read(directory: &Path) -> String {
    mend(&format!("ProtectHome=tmpfs\" and \"BindReadOnlyPaths={}", directory.display()))
}

/// What may mend that a path cannot be written; empty where that has another reason.
pub(crate) fn hint(error: &io::Error, path: &Path) -> String {
    match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => format!("if that is the sandbox of the service: {}", lets_write(path)),
        io::ErrorKind::NotFound => makes(path),
        _ => String::new(),
    }
}

fn mend(line: &str) -> String {
    format!("systemctl edit seawall, add the lines \"[Service]\" and \"{line}\", then restart it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_only_may_be_the_sandboxs() {
        let read_only = io::Error::from_raw_os_error(30);
        assert!(hint(&read_only, Path::new("/srv/cache")).contains("\"ReadWritePaths=-/srv/cache\""));
        assert_eq!(hint(&io::ErrorKind::PermissionDenied.into(), Path::new("/srv")), "");
    }
}
