use super::*;

fn inputs(value: &str) -> Inputs {
    let mut inputs = Inputs::default();
    inputs.add("conf/local.conf", value.as_bytes());
    inputs.add_tree("files of /l", Listing::parse(&format!("f 0644 0:0 {value} a b\n")).unwrap());
    inputs
}

fn answer(text: &str) -> Answer {
    Answer { stdout: text.into(), stderr: b"e".to_vec(), signatures: format!("sigs {text}").into_bytes() }
}

fn store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::local(directory.path().join("signatures"));
    (directory, store)
}

#[test]
fn an_answer_comes_back_for_its_key_alone() {
    let (_directory, store) = store();
    assert_eq!(store.find(&inputs("1").key()).unwrap(), None);
    store.insert(&inputs("1"), "world", &answer("1"), 3.5).unwrap();
    let found = store.find(&inputs("1").key()).unwrap().unwrap();
    assert_eq!((found.answer, found.seconds), (answer("1"), 3.5));
    assert_eq!(store.find(&inputs("2").key()).unwrap(), None);
    assert_eq!(
        store.why_not(&inputs("2"), "world").unwrap(),
        "conf/local.conf changed; files of /l changed: a b"
    );
    assert_eq!(store.why_not(&inputs("2"), "another query"), None);
}

/// Every byte of every file, and every file that is missing: damaged, told, and gone.
#[test]
fn a_damaged_answer_is_never_used() {
    let (_directory, store) = store();
    let key = inputs("1").key();
    let directory = store.answers().join(key.as_str());
    let names = ["answer.json", "signatures", "stdout", "stderr"];
    store.insert(&inputs("1"), "world", &answer("1"), 1.0).unwrap();
    let whole = names.map(|name| std::fs::read(directory.join(name)).unwrap());
    for (file, name) in names.into_iter().enumerate() {
        for place in 0..=whole[file].len() + 1 {
            std::fs::create_dir_all(&directory).unwrap();
            for (name, content) in names.iter().zip(&whole) {
                std::fs::write(directory.join(name), content).unwrap();
            }
            let mut bytes = whole[file].clone();
            match bytes.get_mut(place) {
                Some(byte) => *byte ^= 0x04,
                None => bytes.truncate(bytes.len() - 1),
            }
            std::fs::write(directory.join(name), &bytes).unwrap();
            if place > whole[file].len() {
                std::fs::remove_file(directory.join(name)).unwrap();
            }
            match store.find(&key) {
                // Words for people, the time and white space are no part of the answer.
                Ok(found) => {
                    let fine = name == "answer.json" && found.unwrap().answer == answer("1");
                    assert!(fine, "{name}, byte {place}");
                }
                Err(error) => {
                    assert!(error.message.contains("damaged"), "{error}");
                    assert_eq!(store.find(&key).unwrap(), None, "{name}, byte {place}");
                }
            }
        }
    }
}

#[test]
fn an_answer_under_the_name_of_another_is_not_used() {
    let (_directory, store) = store();
    store.insert(&inputs("1"), "world", &answer("1"), 1.0).unwrap();
    let at = |value: &str| store.answers().join(inputs(value).key().as_str());
    std::fs::rename(at("1"), at("2")).unwrap();
    assert!(store.find(&inputs("2").key()).is_err());
    assert_eq!(store.find(&inputs("2").key()).unwrap(), None);
}

#[test]
fn the_first_of_two_equal_answers_stays_and_nothing_is_left() {
    let (_directory, store) = store();
    store.insert(&inputs("1"), "world", &answer("first"), 1.0).unwrap();
    store.insert(&inputs("1"), "world", &answer("second"), 1.0).unwrap();
    assert_eq!(store.find(&inputs("1").key()).unwrap().unwrap().answer, answer("first"));
    let mut names: Vec<_> =
        std::fs::read_dir(store.root()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["answers", "trees"]);
}

#[test]
fn many_write_at_once() {
    let (_directory, store) = store();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let store = &store;
            scope.spawn(move || {
                for number in 0..6 {
                    let value = format!("{}", (number + thread) % 6);
                    store.insert(&inputs(&value), "world", &answer(&value), 1.0).unwrap();
                    let found = store.find(&inputs(&value).key()).unwrap().unwrap();
                    assert_eq!(found.answer, answer(&value));
                }
            });
        }
    });
}

#[test]
fn the_longest_unused_answers_go() {
    let (_directory, store) = store();
    let old = |value: &str, seconds: u64| {
        let path = store.answers().join(inputs(value).key().as_str()).join("answer.json");
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
    };
    for number in 0..MOST_ANSWERS {
        let value = number.to_string();
        store.insert(&inputs(&value), "world", &answer(&value), 1.0).unwrap();
        old(&value, 1000 + number as u64);
    }
    // The oldest is used, so that the next one goes.
    let last = (MOST_ANSWERS - 1).to_string();
    assert!(store.find(&inputs(&last).key()).unwrap().is_some());
    store.insert(&inputs("new"), "world", &answer("new"), 1.0).unwrap();
    assert_eq!(store.descriptions().len(), MOST_ANSWERS);
    assert!(store.find(&inputs(&last).key()).unwrap().is_some());
    assert!(store.find(&inputs("new").key()).unwrap().is_some());
    let next = (MOST_ANSWERS - 2).to_string();
    assert_eq!(store.find(&inputs(&next).key()).unwrap(), None);
}

#[test]
fn what_a_killed_run_left_is_no_answer_and_goes() {
    let (_directory, store) = store();
    store.prepare().unwrap();
    let left = store.root().join("new-left");
    std::fs::create_dir(&left).unwrap();
    std::fs::write(left.join("signatures"), "x").unwrap();
    store.insert(&inputs("1"), "world", &answer("1"), 1.0).unwrap();
    assert!(left.exists(), "it may be another run's that is still at it");
    let directory = std::fs::File::open(&left).unwrap();
    directory.set_modified(SystemTime::now() - LEFT_BEHIND - Duration::from_secs(1)).unwrap();
    store.insert(&inputs("2"), "world", &answer("2"), 1.0).unwrap();
    assert!(!left.exists());
}

/// The shared part, as a pull request sees it.
#[test]
fn a_store_that_may_not_be_written_stays_as_it_is() {
    let (_directory, store) = store();
    let reader = Store::shared(store.root(), false);
    store.insert(&inputs("1"), "world", &answer("1"), 1.0).unwrap();
    let key = inputs("1").key();
    let path = store.answers().join(key.as_str()).join("answer.json");
    let long_ago = SystemTime::now() - Duration::from_secs(1000);
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(long_ago).unwrap();
    assert!(reader.find(&key).unwrap().is_some());
    assert_eq!(path.metadata().unwrap().modified().unwrap(), long_ago);
    assert!(reader.insert(&inputs("2"), "world", &answer("2"), 1.0).is_err());
    assert_eq!(store.descriptions().len(), 1);
    std::fs::write(&path, "{}").unwrap();
    assert!(reader.find(&key).is_err());
    assert!(path.exists());
}
