const $ = selector => document.querySelector(selector);
const data = JSON.parse($('#data').textContent);
const {names, k, spaces} = data;
const count = names.length;
const fullName = i => [data.folders[data.folder[i]], names[i]].filter(Boolean).join('/');
const texts = names.map((_, i) => fullName(i).toLowerCase());
const matches = new Uint8Array(count).fill(1);
const form = $('form'), list = $('#all ul'), panel = $('#panel');
const canvas = $('canvas'), context = canvas.getContext('2d');
const calm = matchMedia('(prefers-reduced-motion: reduce)');
const say = text => { $('[role=status]').textContent = text; };
let cursor = -1, chosen = -1;

function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function thumbnail(i, alt = '') {
  const image = make('img', {alt, decoding: 'async'});
  image.dataset.image = i;
  near.observe(image);
  return image;
}

// ---- The map ----

let points = Float32Array.from(spaces[0].points);
let view = {x: 4999.5, y: 4999.5, zoom: 1};
let width = 1, height = 1, pending = false, decoding = 0;
const bitmaps = new Array(count);

const edge = () => Math.min(104, width / 5);  // room for icons beside the outermost points
const screenX = x => width / 2 + (x - view.x) / 9999 * (width - edge()) * view.zoom;
const screenY = y => height / 2 + (y - view.y) / 9999 * (height - edge()) * view.zoom;
const iconSize = () => {
  const free = Math.sqrt((width - edge()) * (height - edge()) / count) * 0.85;
  return Math.min(112, Math.max(12, Math.min(72, free)) * view.zoom ** 0.75);
};

// Small icons are drawn from small bitmaps, which takes a fraction of the time and memory.
const SMALL = 48;
const large = new Uint8Array(count);

async function decode(i, whole) {
  bitmaps[i] ??= null;
  large[i] = whole;
  decoding += 1;
  const bytes = Uint8Array.from(atob(images[i]), c => c.charCodeAt(0));
  const options = whole ? {} : {resizeWidth: SMALL, resizeQuality: 'medium'};
  try {
    bitmaps[i] = await createImageBitmap(new Blob([bytes], {type: 'image/webp'}), options);
  } finally {
    decoding -= 1;
    redraw();
  }
}

function redraw() {
  if (pending) return;
  pending = true;
  requestAnimationFrame(() => { pending = false; draw(); });
}

function drawIcon(i, size, edge, colour) {
  const x = screenX(points[2 * i]), y = screenY(points[2 * i + 1]);
  if (x < -size || y < -size || x > width + size || y > height + size) return;
  const bitmap = bitmaps[i];
  const whole = size * (devicePixelRatio || 1) > SMALL;
  if ((bitmap === undefined || (bitmap && whole && !large[i])) && decoding < 48) decode(i, whole);
  let w = size * 0.5, h = w;
  if (bitmap) {
    const scale = size / Math.max(bitmap.width, bitmap.height);
    w = bitmap.width * scale; h = bitmap.height * scale;
    context.drawImage(bitmap, x - w / 2, y - h / 2, w, h);
  } else {
    context.fillRect(x - w / 2, y - h / 2, w, h);
  }
  if (edge) {
    context.lineWidth = edge; context.strokeStyle = colour;
    context.strokeRect(x - w / 2 - edge / 2, y - h / 2 - edge / 2, w + edge, h + edge);
  }
}

function neighboursOf(i, which) { return spaces[which].neighbours.slice(i * k, (i + 1) * k); }

function draw() {
  const style = getComputedStyle(document.documentElement);
  const colour = name => style.getPropertyValue(name).trim();
  const size = iconSize(), ink = colour('--ink'), accents = [colour('--accent'), colour('--wrong')];
  context.clearRect(0, 0, width, height);
  context.fillStyle = colour('--line');
  for (let i = 0; i < count; i++)
    if (!matches[i]) context.fillRect(screenX(points[2 * i]) - 2, screenY(points[2 * i + 1]) - 2, 4, 4);
  context.fillStyle = accents[0];
  for (let i = 0; i < count; i++) if (matches[i]) drawIcon(i, size);
  if (chosen >= 0) {
    const wide = Math.max(size, 40);
    spaces.forEach((_, which) => {
      context.setLineDash(which ? [6, 4] : []);
      context.lineWidth = 1.5; context.strokeStyle = accents[which];
      for (const other of neighboursOf(chosen, which)) {
        context.beginPath();
        context.moveTo(screenX(points[2 * chosen]), screenY(points[2 * chosen + 1]));
        context.lineTo(screenX(points[2 * other]), screenY(points[2 * other + 1]));
        context.stroke();
      }
      for (const other of neighboursOf(chosen, which).reverse())
        drawIcon(other, wide, 2, accents[which]);
    });
    context.setLineDash([]);
    drawIcon(chosen, wide * 1.3, 4, ink);
  }
  if (cursor >= 0) {
    const side = Math.max(size, 40), x = screenX(points[2 * cursor]), y = screenY(points[2 * cursor + 1]);
    drawIcon(cursor, side, 4, accents[0]);
    context.font = '14px system-ui, sans-serif';
    const text = names[cursor], wide = context.measureText(text).width;
    const left = Math.max(4, Math.min(width - wide - 12, x - wide / 2));
    const top = Math.min(height - 24, y + side / 2 + 6);
    context.fillStyle = colour('--page'); context.fillRect(left - 4, top, wide + 8, 20);
    context.fillStyle = ink; context.textBaseline = 'middle';
    context.fillText(text, left, top + 10);
  }
}

function hit(x, y) {
  const reach = Math.max(iconSize() / 2, 12);
  let best = -1, least = reach;
  for (let i = 0; i < count; i++) {
    if (!matches[i]) continue;
    const distance = Math.max(Math.abs(screenX(points[2 * i]) - x), Math.abs(screenY(points[2 * i + 1]) - y));
    if (distance <= least) { least = distance; best = i; }
  }
  return best;
}

function zoom(factor, x = width / 2, y = height / 2) {
  const before = view.zoom;
  view.zoom = Math.min(60, Math.max(0.8, before * factor));
  const change = 1 / before - 1 / view.zoom;  // what is under (x, y) stays there
  view.x += (x - width / 2) / (width - edge()) * 9999 * change;
  view.y += (y - height / 2) / (height - edge()) * 9999 * change;
  redraw();
}

function wholeMap() { view = {x: 4999.5, y: 4999.5, zoom: 1}; redraw(); }

function show(i) {
  const margin = 24, x = screenX(points[2 * i]), y = screenY(points[2 * i + 1]);
  if (x < margin || y < margin || x > width - margin || y > height - margin) {
    view.x = points[2 * i]; view.y = points[2 * i + 1];
  }
  redraw();
}

function moveTo(target) {
  const from = points, start = performance.now(), last = calm.matches ? 0 : 400;
  const step = now => {
    const t = last ? Math.min(1, Math.max(0, now - start) / last) : 1, s = t * t * (3 - 2 * t);
    points = target.map((value, i) => from[i] + (value - from[i]) * s);
    draw();
    if (t < 1) requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
}

function setSpace(which) {
  moveTo(Float32Array.from(spaces[which].points));
  $('#how').textContent = `Map: ${spaces[which].layout}.`;
}

function step(dx, dy) {
  if (cursor < 0) {
    const first = chosen >= 0 && matches[chosen] ? chosen : hit(width / 2, height / 2);
    point(first >= 0 ? first : matches.indexOf(1));
    return;
  }
  const x = screenX(points[2 * cursor]), y = screenY(points[2 * cursor + 1]);
  let best = -1, least = Infinity;
  for (let i = 0; i < count; i++) {
    if (!matches[i] || i === cursor) continue;
    const ahead = (screenX(points[2 * i]) - x) * dx + (screenY(points[2 * i + 1]) - y) * dy;
    const aside = Math.abs((screenX(points[2 * i]) - x) * dy) + Math.abs((screenY(points[2 * i + 1]) - y) * dx);
    if (ahead > 0 && ahead >= aside && ahead + 2 * aside < least) { least = ahead + 2 * aside; best = i; }
  }
  if (best >= 0) point(best); else say('No image further on.');
}

function point(i) {
  if (i < 0) return;
  cursor = i;
  say(fullName(i));
  show(i);
}

const STEPS = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
canvas.addEventListener('keydown', event => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (STEPS[event.key]) step(...STEPS[event.key]);
  else if (event.key === 'Enter' || event.key === ' ') choose(cursor);
  else if (event.key === '+' || event.key === '=') zoom(1.5);
  else if (event.key === '-') zoom(1 / 1.5);
  else if (event.key === '0') wholeMap();
  else if (event.key === 'Escape') { cursor = -1; redraw(); }
  else return;
  event.preventDefault();
});

const fingers = new Map();
let moved = 0;
const spread = () => { const [a, b] = [...fingers.values()]; return Math.hypot(a.x - b.x, a.y - b.y); };
canvas.addEventListener('pointerdown', event => {
  canvas.setPointerCapture(event.pointerId);
  fingers.set(event.pointerId, {x: event.offsetX, y: event.offsetY});
  moved = fingers.size > 1 ? Infinity : 0;
});
canvas.addEventListener('pointermove', event => {
  const last = fingers.get(event.pointerId), x = event.offsetX, y = event.offsetY;
  if (!last) {
    const i = event.pointerType === 'mouse' ? hit(x, y) : cursor;
    if (i !== cursor) { cursor = i; redraw(); }
    return;
  }
  const before = fingers.size > 1 ? spread() : 0;
  fingers.set(event.pointerId, {x, y});
  if (fingers.size > 1) zoom(spread() / (before || 1), x, y);
  moved += Math.abs(x - last.x) + Math.abs(y - last.y);
  if (moved > 5) {
    view.x -= (x - last.x) / (width - edge()) / view.zoom * 9999 / fingers.size;
    view.y -= (y - last.y) / (height - edge()) / view.zoom * 9999 / fingers.size;
    redraw();
  }
});
canvas.addEventListener('pointerup', event => {
  if (fingers.delete(event.pointerId) && moved <= 5) choose(hit(event.offsetX, event.offsetY));
});
canvas.addEventListener('pointercancel', event => fingers.delete(event.pointerId));
canvas.addEventListener('pointerleave', () => { if (!fingers.size) { cursor = -1; redraw(); } });
canvas.addEventListener('wheel', event => {
  if (!event.ctrlKey && !event.metaKey) return;  // else the page scrolls
  event.preventDefault();
  zoom(Math.exp(-event.deltaY / 300), event.offsetX, event.offsetY);
}, {passive: false});
for (const button of document.querySelectorAll('[data-zoom]'))
  button.addEventListener('click', () => Number(button.dataset.zoom) ? zoom(Number(button.dataset.zoom)) : wholeMap());
for (const input of document.querySelectorAll('[name=space]'))
  input.addEventListener('change', () => setSpace(Number(input.value)));
for (const query of ['(prefers-color-scheme: dark)', '(forced-colors: active)', '(prefers-contrast: more)'])
  matchMedia(query).addEventListener('change', redraw);
new ResizeObserver(() => {
  const scale = devicePixelRatio || 1;
  width = canvas.clientWidth; height = canvas.clientHeight;
  canvas.width = width * scale; canvas.height = height * scale;
  context.setTransform(scale, 0, 0, scale, 0, 0);
  redraw();
}).observe(canvas);

// ---- Neighbours ----

function neighbourItem(i, cosine, only) {
  const label = `${fullName(i)}, cosine ${cosine}${only ? ', only found here' : ''}`;
  const button = make('button', {type: 'button', title: fullName(i), className: only ? 'only' : ''},
    thumbnail(i), make('b', {}, `${cosine}${only ? ' ◆' : ''}`), make('span', {dir: 'auto'}, names[i]));
  button.setAttribute('aria-label', label);
  button.addEventListener('click', () => { choose(i); panel.focus(); });
  return make('li', {}, button);
}

function choose(i, quiet = false) {
  if (!(i in names)) return;
  if (items[chosen]) items[chosen].firstChild.removeAttribute('aria-current');
  chosen = i;
  if (items[i]) items[i].firstChild.setAttribute('aria-current', 'true');
  roving(i);
  const found = spaces.map((_, which) => neighboursOf(i, which));
  const parts = spaces.map((own, which) => {
    const others = found[1 - which];
    const nearest = found[which].map((other, place) => neighbourItem(
      other, (own.cosines[i * k + place] / 1000).toFixed(3), others && !others.includes(other)));
    return make('div', {className: which ? 'second' : 'first'},
      make('h3', {}, own.name), make('ol', {}, ...nearest));
  });
  const common = found.length < 2 ? ''
    : `${found[0].filter(other => found[1].includes(other)).length} of ${k} neighbours in common.`;
  panel.replaceChildren(
    make('div', {className: 'chosen'}, thumbnail(i, names[i]),
      make('div', {}, make('h2', {dir: 'auto'}, names[i]), make('div', {className: 'faint', dir: 'auto'}, data.folders[data.folder[i]]),
        make('div', {}, common))),
    make('div', {className: 'found'}, ...parts));
  if (!quiet) { say(`${fullName(i)} chosen. ${common}`.trim()); toAddress(); show(i); }
}

// ---- The list: its first part, which grows as one goes down ----

const PART = 120;
const items = new Array(count);
let sorted = [...names.keys()], shown = [];

function itemOf(i) {
  if (items[i]) return items[i];
  const button = make('button', {type: 'button', tabIndex: -1, title: fullName(i)},
    thumbnail(i), make('span', {dir: 'auto'}, names[i]));
  button.setAttribute('aria-label', fullName(i));
  if (i === chosen) button.setAttribute('aria-current', 'true');
  items[i] = make('li', {}, button);
  items[i].dataset.index = i;
  return items[i];
}

function extend(length) {
  for (let place = list.children.length; place < Math.min(length, shown.length); place++) {
    const item = itemOf(shown[place]);
    item.setAttribute('aria-posinset', place + 1);
    item.setAttribute('aria-setsize', shown.length);
    list.append(item);
  }
}

function refill() {
  shown = sorted.filter(i => matches[i]);
  list.replaceChildren();
  extend(PART);
  roving(shown.includes(chosen) ? chosen : shown[0]);
  watchEnd();
}

function roving(i) {
  for (const old of list.querySelectorAll('[tabindex="0"]')) old.tabIndex = -1;
  const item = i !== undefined && items[i] && items[i].isConnected ? items[i] : list.firstChild;
  if (item) item.firstChild.tabIndex = 0;
}

const end = new IntersectionObserver(entries => {
  if (!entries.some(entry => entry.isIntersecting) || list.children.length >= shown.length) return;
  extend(list.children.length + PART);
  watchEnd();
}, {rootMargin: '800px'});

function watchEnd() {  // anew, since it may be in sight as before
  end.unobserve($('#end'));
  end.observe($('#end'));
}

list.addEventListener('click', event => {
  const item = event.target.closest('li');
  if (item) choose(Number(item.dataset.index));
});
list.addEventListener('keydown', event => {
  const at = shown.indexOf(Number(event.target.closest('li').dataset.index));
  const columns = getComputedStyle(list).gridTemplateColumns.split(' ').length;
  const to = {ArrowLeft: at - 1, ArrowRight: at + 1, ArrowUp: at - columns, ArrowDown: at + columns,
    Home: 0, End: shown.length - 1}[event.key];
  if (to === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  if (!(to in shown)) return;
  extend(to + 1);
  roving(shown[to]);
  items[shown[to]].firstChild.focus();
});

function order() {
  sorted = [...names.keys()];
  if ($('#order').value) sorted.sort((a, b) => data.agreement[a] - data.agreement[b]);
  refill();
}

// ---- Filter and address ----

function filter() {
  const words = form.text.value.toLowerCase().split(/\s+/).filter(Boolean);
  const kind = form.kind ? form.kind.value : '';
  const inside = data.folders.map(folder => !kind || folder === kind || folder.startsWith(`${kind}/`));
  for (let i = 0; i < count; i++)
    matches[i] = inside[data.folder[i]] && words.every(word => texts[i].includes(word)) ? 1 : 0;
  if (cursor >= 0 && !matches[cursor]) cursor = -1;
  refill();
  form.querySelector('output').textContent = `${shown.length} of ${count}`;
  redraw();
}

function toAddress() {
  const fields = new URLSearchParams();
  for (const name of ['text', 'kind']) if (form[name] && form[name].value) fields.set(name, form[name].value);
  if (chosen >= 0) fields.set('image', chosen);
  history.replaceState(null, '', `#${fields}`);
}

function fromAddress() {
  const fields = new URLSearchParams(location.hash.slice(1));
  for (const name of ['text', 'kind'])
    if (fields.has(name) && form[name]) form[name].value = fields.get(name);
  filter();
  choose(fields.has('image') ? Number(fields.get('image')) : Math.max(0, matches.indexOf(1)), true);
}

form.hidden = false;
form.addEventListener('input', () => { filter(); toAddress(); });
form.addEventListener('submit', event => event.preventDefault());
if ($('#order')) $('#order').addEventListener('change', order);
addEventListener('hashchange', fromAddress);
fromAddress();
