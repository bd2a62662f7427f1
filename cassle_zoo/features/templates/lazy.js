// Each image is stored once, in #images, and decoded only where it is about to be seen.
const images = JSON.parse(document.getElementById('images').textContent);
const reveal = image => { image.src = `data:image/webp;base64,${images[image.dataset.image]}`; };
const near = new IntersectionObserver(entries => {
  for (const {isIntersecting, target} of entries)
    if (isIntersecting) { near.unobserve(target); reveal(target); }
}, {rootMargin: '600px'});
for (const image of document.querySelectorAll('img[data-image]')) near.observe(image);
addEventListener('beforeprint', () => document.querySelectorAll('img[data-image]').forEach(reveal));
