use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex whose entries are each whole even after a panic of another holder.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
