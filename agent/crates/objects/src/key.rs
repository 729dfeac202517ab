//! Keys of objects.

use object_store::path::Path;

/// Maximum bytes in an S3 key: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html>.
pub const LONGEST_KEY: usize = 1024;

/// Converts the key without any change, or says why S3 or its client does not support it.
pub fn exact(key: &str) -> Result<Path, String> {
    if key.len() > LONGEST_KEY {
        return Err(format!("its key is longer than S3's {LONGEST_KEY} bytes: `{key}`"));
    }
    match Path::parse(key) {
        Ok(path) if path.as_ref() == key && !key.is_empty() => Ok(path),
        Ok(_) => Err(format!("`{key}` is not a valid key: it begins or ends with `/`")),
        Err(error) => Err(format!("`{key}` is not a valid key: {error}")),
    }
}
