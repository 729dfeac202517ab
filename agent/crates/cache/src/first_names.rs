//! Short lists of names that many workers add to.

/// Adds a name to the first `most` names in their order. Which names these are does not depend on who was faster.
pub fn insert(names: &mut Vec<String>, name: String, most: usize) {
    let place = names.partition_point(|known| *known <= name);
    if place < most {
        names.insert(place, name);
        names.truncate(most);
    }
}

#[cfg(test)]
mod tests {
    use super::insert;

    #[test]
    fn the_order_in_which_names_come_does_not_matter() {
        let (mut up, mut down) = (Vec::new(), Vec::new());
        (0..500).for_each(|number| insert(&mut up, format!("{number:03}"), 100));
        (0..500).rev().for_each(|number| insert(&mut down, format!("{number:03}"), 100));
        assert_eq!(up, down);
        assert_eq!((up.len(), up[0].as_str(), up[99].as_str()), (100, "000", "099"));
        insert(&mut up, "000".to_owned(), 100);
        assert_eq!(up[..3], ["000", "000", "001"], "each counts");
    }
}
