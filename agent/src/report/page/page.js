'use strict';

// The table of tests, links to closed details, and the button that copies the command. All text is set as text,
// never as markup: it comes from the layer.

const dataOf = (root, name) => JSON.parse(root.querySelector('script.' + name).textContent);

const element = (name, text, className) => {
  const made = document.createElement(name);
  if (text) made.textContent = text;
  if (className) made.className = className;
  return made;
};

const SIGNS = { good: '✓', neutral: '–', warn: '!', bad: '✗' };

function tests(root) {
  const data = dataOf(root, 'tests-data');
  const [form, body] = [root.querySelector('form'), root.querySelector('tbody')];
  const [found, more, button] = ['.found', '.more', '.show'].map((name) => root.querySelector(name));
  const STEP = 200;
  let limit = STEP;
  const filters = {
    all: () => true,
    bad: (tone) => tone === 'bad' || tone === 'warn',
    new: (tone, change) => change === 'new',
    before: (tone, change) => change === 'before',
    fixed: (tone, change) => change === 'fixed',
    flaky: (tone, change, word) => change === 'flaky' || word === 'flaky',
    skipped: (tone) => tone === 'neutral',
    passed: (tone) => tone === 'good',
  };
  const row = ([name, suite, outcome, change, time, failure]) => {
    const [word, tone] = data.outcomes[outcome];
    const made = element('tr');
    const first = element('td');
    const sign = element('span', SIGNS[tone], 'sign ' + tone);
    sign.setAttribute('aria-hidden', 'true');
    first.append(sign, ' ' + word);
    const changed = data.changes[change];
    if (changed) first.append(' ', element('span', changed, 'change ' + changed));
    const second = element('td', failure ? '' : name);
    if (failure) {
      const link = element('a', name);
      link.setAttribute('href', '#' + failure);
      second.append(link);
    }
    made.append(first, second, element('td', data.suites[suite]), element('td', time, 'number'));
    return made;
  };
  const show = () => {
    const words = form.elements.text.value.toLowerCase().split(/\s+/).filter(Boolean);
    const accepts = filters[form.elements.filter.value];
    const matching = data.rows.filter(([name, suite, outcome, change]) => {
      const [word, tone] = data.outcomes[outcome];
      if (!accepts(tone, data.changes[change], word)) return false;
      const text = (name + ' ' + data.suites[suite] + ' ' + word).toLowerCase();
      return words.every((part) => text.includes(part));
    });
    body.replaceChildren(...matching.slice(0, limit).map(row));
    const all = data.rows.length.toLocaleString('en');
    found.textContent = matching.length === data.rows.length ? '' : matching.length.toLocaleString('en') + ' of ' + all + ' tests';
    more.textContent = matching.length > limit ? 'The first ' + limit + ' of ' + matching.length.toLocaleString('en') + ' tests.' : '';
    button.hidden = matching.length <= limit;
  };
  form.hidden = false;
  form.addEventListener('submit', (event) => event.preventDefault());
  form.addEventListener('input', () => { limit = STEP; show(); });
  button.hidden = data.rows.length <= body.rows.length;
  button.addEventListener('click', () => { limit += 5 * STEP; show(); });
}

// A link into closed details opens them.
function openTarget() {
  let found = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!found) return;
  const target = found;
  for (; found; found = found.parentElement) {
    if (found.localName === 'details') found.open = true;
  }
  target.scrollIntoView();
}

// Where the clipboard is not allowed, the command is selected.
function copy(button) {
  const command = button.parentElement.querySelector('pre');
  const say = (text) => {
    button.textContent = text;
    setTimeout(() => { button.textContent = 'Copy'; }, 2000);
  };
  const select = () => { getSelection().selectAllChildren(command); say('Selected'); };
  button.hidden = false;
  button.addEventListener('click', () => {
    if (!navigator.clipboard) return select();
    navigator.clipboard.writeText(command.textContent).then(() => say('Copied'), select);
  });
}

document.querySelectorAll('.tests').forEach(tests);
document.querySelectorAll('button.copy').forEach(copy);
addEventListener('hashchange', openTarget);
if (location.hash) openTarget();
