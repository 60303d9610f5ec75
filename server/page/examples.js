// Example images, with texts for each task that they suit.

export const EXAMPLES = [
  {
    file: 'cow.jpg', name: 'Cow',
    detect: ['cow', 'bicycle', 'banana'],
    classify: ['cow', 'horse', 'dog', 'bicycle'],
    similarity: ['a cow on a meadow', 'a bicycle'],
  },
  {
    file: 'cat.jpg', name: 'Cat',
    detect: ['cat', 'cup', 'bicycle'],
    classify: ['cat', 'dog', 'rabbit', 'cup'],
    similarity: ['a kitten', 'a puppy', 'a rocket'],
  },
  {
    file: 'coffee.jpg', name: 'Coffee',
    detect: ['cup', 'spoon', 'banana'],
    classify: ['coffee', 'tea', 'soup', 'banana'],
    similarity: ['a cup of coffee', 'a bowl of fruit'],
  },
  {
    file: 'astronaut.jpg', name: 'Astronaut',
    classify: ['person', 'dog', 'car', 'tree'],
    similarity: ['an astronaut', 'a farmer'],
  },
  {
    file: 'rocket.jpg', name: 'Rocket',
    classify: ['rocket', 'airplane', 'ship', 'dog'],
    similarity: ['a rocket', 'a ship'],
  },
  {
    file: 'dog.jpg', name: 'Dog',
    detect: ['dog', 'cat', 'bicycle'],
    classify: ['dog', 'cat', 'guitar', 'rocket'],
    similarity: ['a puppy', 'a kitten', 'a rocket'],
  },
  { file: 'scene.jpg', name: 'Drawing', detect: ['airplane', 'house', 'cat', 'dog', 'bicycle', 'banana'] },
];

/** Show the `EXAMPLES` for `task` as buttons in `place`; `choose` is called with the one that is pressed. */
export function offer(place, task, choose) {
  place.replaceChildren(...EXAMPLES.filter((example) => example[task]).map((example) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.dataset.file = example.file;
    const picture = document.createElement('img');
    Object.assign(picture, { src: addressOf(example), alt: '', width: 96, height: 72 });
    const name = document.createElement('span');
    name.textContent = example.name;
    button.append(picture, name);
    button.addEventListener('click', () => choose(example));
    return button;
  }));
}

/** Mark the button of the example with `file`, or none. */
export function mark(place, file) {
  for (const button of place.children) button.setAttribute('aria-pressed', String(button.dataset.file === file));
}

/** The URL of an example's image. */
export const addressOf = ({ file }) => new URL(`page/examples/${file}`, document.baseURI).href;
