//! The combinations of a matrix: axes, `exclude` and `include` mean what they mean in GitHub Actions.
//! <https://docs.github.com/en/actions/how-tos/write-workflows/choose-what-workflows-do/run-job-variations>

use super::super::tree::Node;
use super::Setting;

/// How many combinations the axes may have before `exclude`.
pub const MOST_COMBINATIONS: usize = 4096;

/// A key with several values.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    pub key: String,
    pub values: Vec<Node>,
}

/// The values of one cell.
#[derive(Clone, Debug, PartialEq)]
pub struct Combination {
    /// Those of the axes come first.
    pub settings: Vec<Setting>,
    /// Whether it is an element of `include` that fits no combination of the axes.
    pub is_added: bool,
}

/// All combinations of the axes without those that contain every value of an element of `exclude`. Each element of
/// `include` then adds its other keys to the combinations that have its values of the axes; an element that fits none is a
/// combination of its own. `None`, if there are too many combinations.
pub fn combine(
    axes: &[Axis],
    exclude: &[Vec<Setting>],
    include: &[Vec<Setting>],
) -> Option<Vec<Combination>> {
    let count = axes.iter().try_fold(1_usize, |count, axis| count.checked_mul(axis.values.len()))?;
    if count > MOST_COMBINATIONS {
        return None;
    }
    let mut products: Vec<Vec<Setting>> = if axes.is_empty() { Vec::new() } else { vec![Vec::new()] };
    for axis in axes {
        let with = |settings: &Vec<Setting>| -> Vec<Vec<Setting>> {
            let value = |node: &Node| Setting { key: axis.key.clone(), node: node.clone() };
            axis.values.iter().map(|node| [&settings[..], &[value(node)]].concat()).collect()
        };
        products = products.iter().flat_map(with).collect();
    }
    products.retain(|settings| !exclude.iter().any(|excluded| contains(settings, excluded)));
    let mut extended: Vec<Combination> =
        products.into_iter().map(|settings| Combination { settings, is_added: false }).collect();
    let is_axis = |setting: &&Setting| axes.iter().any(|axis| axis.key == setting.key);
    let mut added = Vec::new();
    for element in include {
        let of_axes: Vec<Setting> = element.iter().filter(is_axis).cloned().collect();
        let mut fits = false;
        for combination in extended.iter_mut().filter(|one| contains(&one.settings, &of_axes)) {
            fits = true;
            for setting in element.iter().filter(|setting| !is_axis(setting)) {
                set(&mut combination.settings, setting);
            }
        }
        if !fits {
            added.push(Combination { settings: element.clone(), is_added: true });
        }
    }
    extended.extend(added);
    Some(extended)
}

fn contains(settings: &[Setting], all: &[Setting]) -> bool {
    all.iter().all(|wanted| settings.iter().any(|setting| setting.is_same(wanted)))
}

/// A later element of `include` replaces what an earlier one added.
fn set(settings: &mut Vec<Setting>, new: &Setting) {
    match settings.iter_mut().find(|setting| setting.key == new.key) {
        Some(setting) => *setting = new.clone(),
        None => settings.push(new.clone()),
    }
}
