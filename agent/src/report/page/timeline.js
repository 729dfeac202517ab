
// The timeline of the tasks, and the curves of the machine below it, on canvas: 40,000 elements would be too many.

function timeline(root) {
  const data = dataOf(root, 'timeline-data');
  const count = data.r.length;
  const chart = root.querySelector('.chart');
  const [lanesCanvas, curvesCanvas, tip] = ['.lanes', '.curves', '.tip'].map((name) => chart.querySelector(name));
  const form = root.querySelector('form');
  const live = root.querySelector('.live');
  const AXIS = 34, CURVE = 76, LANES = 256;

  const starts = new Float64Array(count), ends = new Float64Array(count);
  for (let i = 0, at = 0; i < count; i++) {
    at += data.s[i];
    starts[i] = at;
    ends[i] = at + data.d[i];
  }
  const end = Math.max(data.end, 1, ends.reduce((most, one) => Math.max(most, one), 0));
  const outcomes = new Map(data.o.map(([row, outcome]) => [row, data.outcomes[outcome]]));
  const critical = new Set(data.critical);

  // A task takes the first lane that is free, as BitBake gives its threads.
  const lane = new Uint16Array(count);
  const lanes = [];
  for (let i = 0; i < count; i++) {
    let free = lanes.findIndex((rows) => ends[rows[rows.length - 1]] <= starts[i]);
    if (free < 0) free = lanes.length < LANES ? lanes.push([]) - 1 : LANES - 1;
    lanes[free].push(i);
    lane[i] = free;
  }

  const KINDS = [
    [/_setscene$/, 'setscene'],
    [/^do_(fetch|unpack|patch|prepare_recipe_sysroot)/, 'fetch'],
    [/^do_(configure|generate_toolchain_file|kernel_(checkout|metadata|configme))/, 'configure'],
    [/^do_(compile|bundle)/, 'compile'],
    [/^do_(install|populate_sysroot)/, 'install'],
    [/^do_(rootfs|image|bootimg|populate_sdk)/, 'image'],
    [/^do_package/, 'package'],
  ];
  const kindOfTask = data.tasks.map((name) => (KINDS.find(([form]) => form.test(name)) || [0, 'other'])[1]);
  const isBad = (row) => ['failed', 'timed-out', 'cancelled'].includes(outcomes.get(row));
  const kinds = new Map();
  for (let i = 0; i < count; i++) {
    const kind = isBad(i) ? 'failed' : kindOfTask[data.t[i]];
    if (!kinds.has(kind)) kinds.set(kind, []);
    kinds.get(kind).push(i);
  }
  // What matters most is drawn last.
  const order = [...kinds.keys()].sort((one, two) => (one === 'failed') - (two === 'failed'));

  const units = [];
  for (const [unit, rows] of data.u) units.push([unit, (units.length ? units[units.length - 1][1] : 0) + rows]);
  const unitOf = (row) => {
    const found = data.units.length ? units.find(([, last]) => row < last) : null;
    return found ? data.units[found[0]] : '';
  };

  const laneHeight = lanes.length > 64 ? 5 : lanes.length > 24 ? 10 : 16;
  const machine = data.machine;
  const curves = machine.t.length > 1 ? [
    { name: 'CPU', values: machine.cpu, most: 100, colour: '--cpu', text: (value) => value + ' %' },
    {
      name: 'Memory', values: machine.memory, colour: '--memory', limit: machine.limit,
      most: Math.max(machine.limit, ...machine.memory, 1), text: (value) => size(value) + (machine.limit ? ' of ' + size(machine.limit) : ''),
    },
  ] : [];
  const height = count ? AXIS + lanes.length * laneHeight + 6 : AXIS;
  lanesCanvas.style.height = height + 'px';
  curvesCanvas.style.height = curves.length * CURVE + 'px';
  curvesCanvas.hidden = !curves.length;

  const view = { from: 0, to: end };
  let selected = -1, search = null, colours = {};

  const time = (at) => {
    const seconds = Math.floor(at / 100), pad = (number) => String(number).padStart(2, '0');
    const [h, m, s] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
    return h ? h + 'h' + pad(m) + 'm' + pad(s) + 's' : m ? m + 'm' + pad(s) + 's' : s + 's';
  };
  const short = (at) => (at < 1000 ? (at / 100).toFixed(1) + 's' : time(at));
  const size = (mebibytes) => (mebibytes < 1024 ? mebibytes + ' MiB' : (mebibytes / 1024).toFixed(1) + ' GiB');

  const context = (canvas) => {
    const ratio = devicePixelRatio || 1;
    const [width, tall] = [canvas.clientWidth, canvas.clientHeight];
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(tall * ratio);
    const made = canvas.getContext('2d');
    made.setTransform(ratio, 0, 0, ratio, 0, 0);
    made.font = '11px system-ui, sans-serif';
    made.textBaseline = 'middle';
    return [made, width, tall];
  };
  const readColours = () => {
    const style = getComputedStyle(document.documentElement);
    const names = ['text', 'dim', 'line', 'back', 'soft', 'cpu', 'memory', 'k-critical', 'k-failed', ...order.map((kind) => 'k-' + kind)];
    colours = Object.fromEntries(names.map((name) => ['--' + name, style.getPropertyValue('--' + name).trim()]));
  };

  const drawAxis = (canvas, width, tall) => {
    const steps = [10, 50, 100, 200, 500, 1000, 3000, 6000, 12000, 30000, 60000, 90000, 180000, 360000, 720000, 1440000, 8640000];
    const wanted = (view.to - view.from) / Math.max(width / 110, 1);
    const step = steps.find((one) => one >= wanted) || steps[steps.length - 1];
    const x = (at) => (at - view.from) * width / (view.to - view.from);
    canvas.fillStyle = colours['--dim'];
    for (const [name, start, took] of data.stages) {
      const [left, right] = [Math.max(x(start), 0), Math.min(x(start + took), width)];
      if (right - left < 2) continue;
      canvas.strokeStyle = colours['--dim'];
      canvas.lineWidth = 1;
      canvas.strokeRect(left + .5, 2.5, right - left - 1, 12);
      if (right - left > canvas.measureText(name).width + 8) canvas.fillText(name, left + 4, 9);
    }
    for (let at = Math.ceil(view.from / step) * step; at <= view.to; at += step) {
      canvas.fillStyle = colours['--line'];
      canvas.fillRect(Math.round(x(at)), 16, 1, tall - 16);
      canvas.fillStyle = colours['--dim'];
      if (x(at) + 40 < width) canvas.fillText(step < 100 ? (at / 100).toFixed(1) + 's' : time(at), x(at) + 3, 25);
    }
  };

  const drawLanes = () => {
    const [canvas, width, tall] = context(lanesCanvas);
    const scale = width / (view.to - view.from);
    drawAxis(canvas, width, tall);
    // Tasks that are narrower than a pixel share one.
    const last = new Int32Array(lanes.length);
    const bar = (row, alpha) => {
      if (ends[row] < view.from || starts[row] > view.to) return;
      const left = Math.max((starts[row] - view.from) * scale, -1);
      const wide = Math.min((ends[row] - view.from) * scale, width + 1) - left;
      const top = AXIS + lane[row] * laneHeight;
      if (wide < 1) {
        const pixel = Math.floor(left);
        if (last[lane[row]] === pixel + 2) return;
        last[lane[row]] = pixel + 2;
        canvas.fillRect(pixel, top, 1, laneHeight - 1);
      } else {
        canvas.fillRect(left, top, wide - (wide > 3 ? .7 : 0), laneHeight - 1);
      }
      if (wide > 46 && laneHeight > 12 && alpha === 1) labels.push([row, left, wide, top]);
    };
    const labels = [];
    for (const kind of order) {
      last.fill(0);
      canvas.fillStyle = colours['--k-' + kind];
      for (const row of kinds.get(kind)) {
        const alpha = search && !search[data.r[row]] ? .15 : 1;
        canvas.globalAlpha = alpha;
        bar(row, alpha);
      }
    }
    canvas.globalAlpha = 1;
    for (const [row, left, wide, top] of labels) {
      const from = Math.max(left, 0), room = Math.min(left + wide, width) - from - 8;
      if (room < 30) continue;
      canvas.save();
      canvas.beginPath();
      canvas.rect(from, top, room + 4, laneHeight);
      canvas.clip();
      canvas.fillStyle = kindOfTask[data.t[row]] === 'setscene' ? colours['--text'] : labelColour(row);
      canvas.fillText(data.recipes[data.r[row]] + ' ' + data.tasks[data.t[row]].replace(/^do_/, ''), from + 4, top + laneHeight / 2);
      canvas.restore();
    }
    const outline = (row, colour, thick) => {
      const left = (starts[row] - view.from) * scale, wide = Math.max((ends[row] - starts[row]) * scale, 1.5);
      if (left > width || left + wide < 0) return;
      canvas.strokeStyle = colour;
      canvas.lineWidth = thick;
      canvas.strokeRect(left + .5, AXIS + lane[row] * laneHeight + .5, wide - 1, laneHeight - 2);
    };
    for (const row of critical) outline(row, colours['--k-critical'], 2);
    if (selected >= 0) outline(selected, colours['--text'], 2.5);
  };
  // Black or white, whichever reads better on the bar.
  const labelColour = (row) => {
    const colour = colours['--k-' + (isBad(row) ? 'failed' : kindOfTask[data.t[row]])];
    const [r, g, b] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16) / 255)
      .map((part) => (part <= .03928 ? part / 12.92 : ((part + .055) / 1.055) ** 2.4));
    return .2126 * r + .7152 * g + .0722 * b > .18 ? '#000000' : '#ffffff';
  };

  const drawCurves = () => {
    if (!curves.length) return;
    const [canvas, width] = context(curvesCanvas);
    const x = (at) => (at * 100 - view.from) * width / (view.to - view.from);
    curves.forEach((curve, place) => {
      const [top, bottom] = [place * CURVE + 22, (place + 1) * CURVE - 2];
      const y = (value) => bottom - value * (bottom - top) / curve.most;
      canvas.beginPath();
      machine.t.forEach((at, i) => canvas.lineTo(x(at), y(curve.values[i])));
      canvas.strokeStyle = colours[curve.colour];
      canvas.lineWidth = 1.5;
      canvas.stroke();
      canvas.lineTo(x(machine.t[machine.t.length - 1]), bottom);
      canvas.lineTo(x(machine.t[0]), bottom);
      canvas.globalAlpha = .2;
      canvas.fillStyle = colours[curve.colour];
      canvas.fill();
      canvas.globalAlpha = 1;
      if (curve.limit) {
        canvas.setLineDash([4, 4]);
        canvas.strokeStyle = colours['--k-failed'];
        canvas.beginPath();
        canvas.moveTo(0, y(curve.limit));
        canvas.lineTo(width, y(curve.limit));
        canvas.stroke();
        canvas.setLineDash([]);
      }
      const name = curve.name + ', at most ' + curve.text(curve.values.reduce((most, one) => Math.max(most, one), 0));
      canvas.fillStyle = colours['--text'];
      canvas.fillText(name, 6, place * CURVE + 11);
      canvas.fillStyle = colours['--line'];
      canvas.fillRect(0, bottom + 1, width, 1);
    });
  };

  let waiting = false;
  const draw = () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      if (!lanesCanvas.clientWidth) return;
      drawLanes();
      drawCurves();
    });
  };

  const words = (row) => {
    const facts = [short(ends[row] - starts[row])];
    const outcome = outcomes.get(row);
    if (outcome) facts.unshift(outcome);
    if (data.c.length && data.c[row]) facts.push('CPU time ' + short(data.c[row] * 10));
    if (data.m.length && data.m[row]) facts.push('peak memory ' + size(data.m[row]));
    facts.push('started after ' + time(starts[row]));
    if (critical.has(row)) facts.push('on the critical path');
    if (unitOf(row)) facts.push(unitOf(row));
    return [data.recipes[data.r[row]] + ':' + data.tasks[data.t[row]], facts.join(', ')];
  };
  const showTip = (title, text, left, top) => {
    tip.replaceChildren(element('b', title), document.createTextNode(text));
    tip.hidden = false;
    const room = chart.clientWidth - tip.offsetWidth - 6;
    tip.style.left = Math.max(4, Math.min(left + 12, room)) + 'px';
    const below = top + 16 + tip.offsetHeight < chart.clientHeight;
    tip.style.top = Math.max(2, below ? top + 16 : top - tip.offsetHeight - 8) + 'px';
  };
  const at = (row, x) => {
    const when = view.from + x * (view.to - view.from) / lanesCanvas.clientWidth;
    const near = 2 * (view.to - view.from) / lanesCanvas.clientWidth;
    const rows = lanes[row] || [];
    let low = 0, high = rows.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (starts[rows[middle]] <= when + near) low = middle + 1; else high = middle;
    }
    const found = low ? rows[low - 1] : -1;
    return found >= 0 && ends[found] >= when - near ? found : -1;
  };
  const hover = (event) => {
    const box = chart.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    const row = at(Math.floor((y - AXIS) / laneHeight), x);
    if (row >= 0 && y < height) {
      showTip(...words(row), x, y);
    } else if (curves.length && y >= height) {
      const when = (view.from + x * (view.to - view.from) / chart.clientWidth) / 100;
      let near = 0;
      machine.t.forEach((one, i) => { if (Math.abs(one - when) < Math.abs(machine.t[near] - when)) near = i; });
      showTip('After ' + time(machine.t[near] * 100), curves.map((curve) => curve.name + ' ' + curve.text(curve.values[near])).join(', '), x, y);
    } else {
      tip.hidden = true;
    }
  };

  const limit = () => {
    const wide = Math.min(Math.max(view.to - view.from, 20), end);
    view.from = Math.min(Math.max(view.from, 0), end - wide);
    view.to = view.from + wide;
  };
  const zoom = (factor, around) => {
    const middle = around === undefined ? (view.from + view.to) / 2 : around;
    view.from = middle - (middle - view.from) * factor;
    view.to = middle + (view.to - middle) * factor;
    limit();
    draw();
  };
  const whole = () => { [view.from, view.to] = [0, end]; draw(); };

  const select = (row) => {
    if (row === undefined || row < 0) return;
    selected = row;
    if (starts[row] < view.from || starts[row] > view.to) {
      const wide = view.to - view.from;
      [view.from, view.to] = [starts[row] - wide / 2, starts[row] + wide / 2];
      limit();
    }
    draw();
    const text = words(row);
    live.textContent = text.join(': ');
    const x = (starts[row] - view.from) * lanesCanvas.clientWidth / (view.to - view.from);
    showTip(...text, Math.max(x, 0), AXIS + lane[row] * laneHeight);
  };
  const step = (rows, by) => rows[Math.min(Math.max(rows.indexOf(selected) + by, 0), rows.length - 1)];
  const change = (by) => {
    const next = lane[selected] + by;
    if (!lanes[next]) return;
    const wanted = (starts[selected] + ends[selected]) / 2;
    const away = (row) => Math.max(starts[row] - wanted, wanted - ends[row], 0);
    select(lanes[next].reduce((best, row) => (away(row) < away(best) ? row : best)));
  };
  const centre = () => (selected >= 0 ? starts[selected] : undefined);
  const keys = {
    ArrowRight: () => select(selected < 0 ? 0 : step(lanes[lane[selected]], 1)),
    ArrowLeft: () => select(selected < 0 ? 0 : step(lanes[lane[selected]], -1)),
    ArrowDown: () => (selected < 0 ? select(0) : change(1)),
    ArrowUp: () => (selected < 0 ? select(0) : change(-1)),
    Home: () => select(0),
    End: () => select(count - 1),
    '+': () => zoom(.5, centre()),
    '=': () => zoom(.5, centre()),
    '-': () => zoom(2, centre()),
    0: whole,
    Escape: () => { selected = -1; tip.hidden = true; live.textContent = ''; draw(); },
  };
  chart.addEventListener('keydown', (event) => {
    if (!count || event.ctrlKey || event.metaKey || event.altKey || !Object.hasOwn(keys, event.key)) return;
    event.preventDefault();
    keys[event.key]();
  });

  let drag = null;
  chart.addEventListener('pointerdown', (event) => { drag = { x: event.clientX, from: view.from, to: view.to }; hover(event); });
  chart.addEventListener('pointermove', (event) => {
    if (!drag || !(event.buttons & 1) || event.pointerType === 'touch' && view.to - view.from >= end) return hover(event);
    tip.hidden = true;
    const by = (drag.x - event.clientX) * (drag.to - drag.from) / chart.clientWidth;
    [view.from, view.to] = [drag.from + by, drag.to + by];
    limit();
    draw();
  });
  chart.addEventListener('pointerup', () => { drag = null; });
  chart.addEventListener('pointerleave', () => { drag = null; tip.hidden = true; });
  chart.addEventListener('blur', () => { tip.hidden = true; });
  chart.addEventListener('dblclick', (event) => {
    const box = chart.getBoundingClientRect();
    zoom(.4, view.from + (event.clientX - box.left) * (view.to - view.from) / box.width);
  });
  chart.addEventListener('wheel', (event) => {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    const box = chart.getBoundingClientRect();
    zoom(event.deltaY > 0 ? 1.25 : .8, view.from + (event.clientX - box.left) * (view.to - view.from) / box.width);
  }, { passive: false });

  form.addEventListener('submit', (event) => event.preventDefault());
  form.addEventListener('click', (event) => {
    const wanted = event.target.dataset.do;
    if (wanted === 'in') zoom(.5);
    if (wanted === 'out') zoom(2);
    if (wanted === 'all') whole();
  });
  form.addEventListener('input', () => {
    const text = form.elements.text.value.trim().toLowerCase();
    search = text ? data.recipes.map((name) => name.toLowerCase().includes(text)) : null;
    const found = search ? data.r.filter((recipe) => search[recipe]).length : 0;
    live.textContent = search ? found + ' tasks' : '';
    draw();
  });

  form.hidden = false;
  chart.hidden = false;
  const legend = root.querySelector('.legend');
  if (legend) legend.hidden = false;
  readColours();
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => { readColours(); draw(); });
  new ResizeObserver(draw).observe(chart);
  draw();
}

document.querySelectorAll('.timeline').forEach(timeline);
