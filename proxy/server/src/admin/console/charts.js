// Charts of the console: drawn from the history, with one moment pointed at in all of them.
'use strict';

function nice(most) {
  const unit = 10 ** Math.floor(Math.log10(most));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].map((step) => step * unit).find((step) => step >= most * 0.999) || most;
}

function niceBytes(most) {
  const unit = 1024 ** Math.floor(Math.log(most) / Math.log(1024));
  return nice(most / unit) * unit;
}

function classSeries(what, value) {
  return (shown) => names.map((name, at) => ({ name, css: colour(at), dash: at >= 8 && at < names.length - 1, get: (point) => of(point, at, what) }))
    .filter((series) => shown.some((point) => series.get(point) > 0)).map((series) => ({ ...series, show: value }));
}
function reasonSeries() {
  return (shown) => reasons.map((name, at) => ({ name: name.replaceAll('_', ' '), css: 'k' + (at * 3 + 6) % 8, dash: at >= 8, get: (point) => point.why[at] || 0, show: rate }))
    .filter((series) => shown.some((point) => series.get(point) > 0));
}

const CHARTS = [
  { id: 'requests', title: 'Requests', unit: 'per second', stack: true, show: rate, series: (shown) => [
    { name: 'admitted', css: 'kacc', get: (point) => total(point, ADMITTED, SPARED) },
    { name: 'refused', css: 'kbad', get: (point) => total(point, REFUSED) },
    { name: 'offered', css: 'kink', line: true, get: offered },
    ...(shown.some((point) => total(point, SHADOW) > 0) ? [{ name: 'would be refused', css: 'kwarn', line: true, dash: true, get: (point) => total(point, SHADOW) }] : []),
  ] },
  { id: 'refused', title: 'Refused', unit: '/s', stack: true, show: rate, none: 'nobody is refused', series: classSeries(REFUSED, rate), flip: reasonSeries() },
  { id: 'admitted', title: 'Admitted', unit: '/s by class', stack: true, show: rate, none: 'nothing is asked', series: classSeries(ADMITTED, rate) },
  { id: 'wait', title: 'Queue delay', unit: 'longest of those admitted', show: ms, none: 'nobody waits', least: 10, series: classSeries(LONGEST, ms) },
  { id: 'probe', title: 'Apiserver', unit: 'delay of a trivial call', show: ms, least: 5, bound: () => doc.probe_target, boundName: 'target', series: (shown) => [
    { name: 'late', css: 'k2', soft: true, get: (point) => point.probe },
    ...(shown.some((point) => point.read !== null) ? [{ name: 'small reads', css: 'k3', dash: true, get: (point) => point.read }] : []),
  ] },
  { id: 'level', title: 'Level', unit: 'beyond it is refused', step: true, top: () => Math.max(1, names.length - 1), ticks: () => names.length - 1, show: (value) => level(value), series: () => [
    { name: 'level', css: 'k6', soft: true, get: (point) => (point.level ? point.level[0] + point.level[1] / 128 : names.length - 1) },
  ] },
  { id: 'limit', title: 'Limit', unit: 'outstanding short work', show: ms, series: () => [
    { name: 'limit', css: 'kink', get: (point) => point.limit },
    { name: 'in use', css: 'k1', soft: true, get: (point) => point.limit_used },
  ] },
  { id: 'breadth', title: 'Breadth', unit: 'outstanding long work', show: ms, series: () => [
    { name: 'breadth', css: 'kink', get: (point) => point.breadth },
    { name: 'in use', css: 'k5', soft: true, get: (point) => point.breadth_used },
  ] },
  { id: 'bytes', title: 'Large answers', unit: 'bytes in flight', show: bytes, least: 1 << 20, series: () => [
    { name: 'budget', css: 'kink', get: (point) => (point.bytes_budget < 2 ** 60 ? point.bytes_budget : null) },
    { name: 'in flight', css: 'k4', soft: true, get: (point) => point.bytes },
  ] },
  { id: 'memory', title: 'Memory', unit: 'of the apiserver', show: bytes, none: 'not sensed', least: 1 << 20, series: (shown) => (shown.some((point) => point.memory !== null) ? [
    { name: 'bound', css: 'kink', get: (point) => point.memory_limit },
    { name: 'used', css: 'k7', soft: true, get: (point) => point.memory },
  ] : []) },
  { id: 'lane', title: 'Reserved lane', unit: 'for operators', show: rate, least: 2, series: (shown) => [
    { name: 'in flight', css: 'k8', soft: true, get: (point) => point.reserved },
    { name: 'per second', css: 'k0', get: (point) => of(point, names.length - 1, ADMITTED) },
    ...(shown.some((point) => of(point, names.length - 1, REFUSED) > 0) ? [{ name: 'refused', css: 'kbad', get: (point) => of(point, names.length - 1, REFUSED) }] : []),
  ] },
];

function level(value) {
  const at = Math.floor(value);
  if (at >= names.length - 1) return 'all admitted';
  return at + '.' + Math.round((value - at) * 128) + ' ' + names[at];
}

class Chart {
  constructor(spec) {
    this.spec = spec;
    this.flipped = false;
    this.svg = make('svg', { tabindex: 0, role: 'img', 'data-chart': spec.id });
    this.unit = make('small', {}, spec.unit);
    this.legend = make('ul', { class: 'legend', 'aria-hidden': 'true' });
    const caption = make('figcaption', {}, make('span', {}, spec.title), this.unit);
    if (spec.flip) {
      const button = make('button', { type: 'button', class: 'flip' }, 'by reason');
      button.addEventListener('click', () => { this.flipped = !this.flipped; say(button, this.flipped ? 'by class' : 'by reason'); draw(); });
      this.unit.textContent = spec.unit + ' by class';
      caption.append(button);
    }
    this.figure = make('figure', {}, caption, this.svg, this.legend);
    this.svg.addEventListener('pointermove', (event) => this.point(event));
    this.svg.addEventListener('pointerleave', () => { pointed = null; draw(); });
    this.svg.addEventListener('keydown', (event) => this.key(event));
    this.svg.addEventListener('blur', () => { if (pointed !== null) { pointed = null; draw(); } });
  }

  point(event) {
    const box = this.svg.getBoundingClientRect();
    const part = (event.clientX - box.left - this.left) / (box.width - this.left);
    pointed = this.from + part * (this.to - this.from);
    draw();
  }

  key(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10 }[event.key];
    if (event.key === 'Escape') pointed = null;
    else if (step && points.length) {
      const at = pointed === null ? points.length - 1 : nearest(points, pointed) + step;
      pointed = points[Math.min(points.length - 1, Math.max(0, at))].at;
    } else return;
    event.preventDefault();
    draw();
  }

  draw(shown, from, to) {
    Object.assign(this, { from, to });
    const { spec } = this;
    const width = Math.max(120, this.svg.clientWidth || 300);
    const height = this.svg.clientHeight || 120;
    const series = shown.length ? (this.flipped ? spec.flip : spec.series)(shown) : [];
    const stacked = series.filter((one) => spec.stack && !one.line);
    const sums = shown.map(() => 0);
    const layers = stacked.map((one) => shown.map((point, at) => [sums[at], sums[at] += one.get(point) || 0]));
    let most = Math.max(spec.least || 1, ...sums);
    for (const one of series) if (!spec.stack || one.line) for (const point of shown) most = Math.max(most, one.get(point) || 0);
    const bound = spec.bound && doc ? spec.bound() : null;
    if (bound !== null && bound < most * 4) most = Math.max(most, bound);
    const top = spec.top ? spec.top() : spec.show === bytes ? niceBytes(most) : nice(most);
    const label = (value) => (spec.ticks ? (value === top ? 'all' : String(value)) : spec.show(value));
    const ticks = spec.ticks ? [0, Math.round(top / 2), top] : [0, top / 2, top];
    this.left = 8 + 6 * Math.max(...ticks.map((tick) => label(tick).length));
    const [left, above, below] = [this.left, 6, 15];
    const x = (at) => left + (at - from) / (to - from) * (width - left);
    const y = (value) => above + (1 - value / top) * (height - above - below);
    const parts = [];
    for (const tick of ticks) {
      parts.push(make('line', { class: 'grid', x1: left, x2: width, y1: y(tick), y2: y(tick) }),
        make('text', { x: left - 4, y: y(tick) + 3.5, 'text-anchor': 'end' }, label(tick)));
    }
    const every = (to - from) / 60000 <= 2 ? 15000 : (to - from) / 60000 <= 6 ? 60000 : 180000;
    for (let at = Math.ceil(from / every) * every; at <= to; at += every) {
      if (x(at) < left + 14 || x(at) > width - 14) continue;
      parts.push(make('line', { class: 'grid', x1: x(at), x2: x(at), y1: above, y2: height - below }),
        make('text', { x: x(at), y: height - 3, 'text-anchor': 'middle' }, clock(at).slice(every < 60000 ? 3 : 0, every < 60000 ? 8 : 5)));
    }
    stacked.forEach((one, at) => {
      const path = areas(shown, layers[at], x, y);
      parts.push(make('path', { class: 'a ' + one.css, d: path }));
    });
    for (const one of series) {
      if (spec.stack && !one.line) continue;
      const values = shown.map((point) => one.get(point));
      if (one.soft) parts.push(make('path', { class: 'soft ' + one.css, d: areas(shown, values.map((value) => [0, value || 0]), x, y) }));
      parts.push(make('path', { class: 'l ' + one.css + (one.dash ? ' dash' : ''), d: lines(shown, values, x, y, spec.step) }));
    }
    if (bound !== null && bound <= top) parts.push(make('line', { class: 'bound', x1: left, x2: width, y1: y(bound), y2: y(bound) }));
    const at = pointed === null ? shown.length - 1 : nearest(shown, pointed);
    const point = shown[at];
    if (pointed !== null && point) parts.push(make('line', { class: 'cross', x1: x(point.at), x2: x(point.at), y1: above, y2: height - below }));
    this.svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
    this.svg.replaceChildren(...parts);
    const entries = point ? series.map((one) => ({ one, text: one.get(point) === null ? '–' : (one.show || spec.show)(one.get(point)) })) : [];
    if (bound !== null) entries.push({ one: { name: spec.boundName, css: 'kbad', dash: true }, text: spec.show(bound) });
    this.legend.replaceChildren(...(series.length ? entries : [null]).map((entry) => (entry === null
      ? make('li', { class: 'none' }, make('span', {}, shown.length ? spec.none || '' : 'no data yet'))
      : make('li', { class: entry.one.css + (entry.one.dash ? ' dash' : '') }, make('span', {}, entry.one.name + ' ', make('b', {}, entry.text))))));
    if (this.flipped !== this.was && spec.flip) { say(this.unit, spec.unit + (this.flipped ? ' by reason' : ' by class')); this.was = this.flipped; }
    const said = entries.map((entry) => entry.one.name + ' ' + entry.text).join(', ') || spec.none || 'no data yet';
    this.svg.setAttribute('aria-label', `${spec.title}, ${this.unit.textContent}: ${said}`);
  }
}

function nearest(shown, time) {
  let best = shown.length - 1;
  for (let at = 0; at < shown.length; at += 1) if (Math.abs(shown[at].at - time) < Math.abs(shown[best].at - time)) best = at;
  return best;
}
const follows = (shown, at) => at > 0 && shown[at].at - shown[at - 1].at < GAP;
const p = (value) => value.toFixed(1);

function lines(shown, values, x, y, step) {
  let path = '';
  let drawn = false;
  shown.forEach((point, at) => {
    if (values[at] === null || values[at] === undefined) { drawn = false; return; }
    const to = `${p(x(point.at))} ${p(y(values[at]))}`;
    if (!drawn || !follows(shown, at)) path += 'M' + to;
    else path += (step ? `H${p(x(point.at))}V${p(y(values[at]))}` : 'L' + to);
    drawn = true;
  });
  return path;
}

function areas(shown, layer, x, y) {
  let path = '';
  let start = 0;
  for (let at = 1; at <= shown.length; at += 1) {
    if (at < shown.length && follows(shown, at)) continue;
    const part = shown.slice(start, at);
    if (part.length > 1) {
      const upper = part.map((point, n) => `${p(x(point.at))} ${p(y(layer[start + n][1]))}`);
      const lower = part.map((point, n) => `${p(x(point.at))} ${p(y(layer[start + n][0]))}`).reverse();
      path += `M${upper.join('L')}L${lower.join('L')}Z`;
    }
    start = at;
  }
  return path;
}

const charts = CHARTS.map((spec) => new Chart(spec));
$('charts').append(...charts.map((chart) => chart.figure));

function draw() {
  const to = points.length ? points[points.length - 1].at : Date.now();
  // A short history fills the chart, too.
  const first = points.length ? points[0].at : to;
  const from = Math.min(to - 60000, Math.max(to - minutes * 60000, first));
  const shown = points.filter((point) => point.at >= from);
  for (const chart of charts) chart.draw(shown, from, to);
  const at = pointed !== null && shown.length ? shown[nearest(shown, pointed)].at : null;
  say($('when'), at === null ? 'point at a chart for its values' : `values of ${clock(at)} UTC`);
}
