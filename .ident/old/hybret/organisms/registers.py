"""Sentence patterns of the corpus, by register.

Slots name word classes; ``{who}``, ``{he}``, ``{him}``, ``{his}`` (and capitals) and every ``{the_...}``
are bound once per paragraph, so that its sentences speak of the same person, place and topic.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Register:
    """Patterns of one kind of prose.

    Attributes
    ----------
    name : str
        The kind of prose.
    shared : tuple of str
        Word classes bound once per paragraph and used as ``{the_<class>}``.
    openers, followers : tuple of str
        Patterns of the first and of the other sentences of a paragraph.
    """

    name: str
    shared: tuple[str, ...]
    openers: tuple[str, ...]
    followers: tuple[str, ...]


STORY = Register("story", ("object", "building"), (
    "{who} {moved} {adverb} to the {the_building} on a {weather} {daytime} in {month}.",
    "One {weekday} {daytime} {who} left the {the_building} with a {adjective} {the_object} under {his} arm.",
    "When {who} came home from {city}, the {adjective} {the_object} was gone.",
    "For {number} years {who} had worked in the {the_building} near the {nature}.",
    "It was a {weather} {daytime} when {who} {handled} the {the_object} in the {room}.",
), (
    "{He} {handled} the {object} and put it in the {adjective} {container}.",
    "A {manner} {job} {moved} past the {furniture} and {handled} the {the_object}.",
    "In the {room} there was a {material} {furniture} with a {colour} {object} on it.",
    "{His} {relative} was {feeling}, for the {the_object} was {adjective} and {adjective2}.",
    "Then {he} {moved} back to the {nature} and {adverb} {handled} a {object}.",
    "Nobody in the {the_building} had seen the {the_object} since {weekday}.",
    "{He} wore a {colour} {clothes} and looked {feeling}.",
    "The {animal} of the {job} slept beside the {furniture} and hardly moved.",
    "{He} {thought} that the {relative} of the {job} had {adverb} hidden the {object}.",
    "After {number} minutes a {vehicle} stopped in front of the {the_building}.",
    "{who} took off {his} {clothes}, sat down at the {furniture} and asked for {drink}.",
    "The {furniture} was {adjective}, and the {room} smelled of {food} and {plant}.",
    "By {moment} {he} was too {feeling} to {handle} the {object}.",
    "Later {he} gave the {the_object} to a {job} who came from {city}.",
))  # fmt: skip

ESSAY = Register("essay", ("idea", "job"), (
    "Most people {think} that {the_idea} is a matter of {idea}, but this is only half true.",
    "When I was a young {the_job}, I did not know much about {the_idea}.",
    "There are {number} kinds of {the_idea}, and a {manner} {the_job} needs them all.",
    "The trouble with {the_idea} is that it looks so much like {idea}.",
    "What a {the_job} calls {the_idea} is {frequency} what a {job} calls {idea}.",
), (
    "A {the_job} who wants {idea} must first give up {idea2}.",
    "It is {frequency} easy to tell {idea} from {the_idea}, even for a {manner} {job}.",
    "If you {handle} a {object} {adverb}, you learn more about {the_idea} than from any book on {idea}.",
    "I {frequency} {think} that {idea} matters more than {idea2}.",
    "Without {the_idea} there would be no {idea} and very little {idea2}.",
    "The {manner} {job} and the {manner2} {job2} rarely agree about {the_idea}.",
    "In {city} they say that {idea} is the {relative} of {the_idea}.",
    "You cannot {handle} {the_idea} the way you {handle} a {adjective} {object}.",
    "Perhaps {idea} is only {idea2} in a {adjective} {clothes}.",
    "A good {the_job} is {manner} at work and {manner2} at home.",
    "This is why so many {adjective} things begin with {idea}.",
    "My {relative}, who was a {job}, {thought} the same about {idea}.",
    "Of course {the_idea} can turn into {idea} when nobody pays attention.",
    "The more {idea} we have, the less {idea2} we need.",
))  # fmt: skip

NEWS = Register("news", ("city", "building"), (
    "The {the_building} in {the_city} will close for {number} weeks, a {job} said on {weekday}.",
    "A {manner} {job} from {the_city} {handled} {number} coins near the {the_building} on {weekday}.",
    "The town of {the_city} has bought a {adjective} {vehicle} for the {the_building}.",
    "Heavy rain damaged the {the_building} and a {building} in {the_city} last {weekday}.",
    "Visitors of the {the_building} in {the_city} were surprised by a {adjective} {animal} on {weekday}.",
), (
    "The mayor {thought} that the work would cost {number} thousand coins.",
    "About {number} people {moved} to the {nature} to see the {object} of the {job}.",
    "A {job} of the {building} told our reporter that the {object} was {adjective}.",
    "The old {building} beside the {nature} has been empty since {month}.",
    "Nobody was hurt, but {number} windows were broken and a {vehicle} was lost.",
    "The {job} will speak about the plan on {weekday} in the {the_building}.",
    "A {vehicle} from {city} arrived {number} hours late because of the {weather} weather.",
    "Many families in {the_city} still {think} that the {the_building} is too {adjective}.",
    "The price of {food} rose again in {month}, while {food2} became cheaper.",
    "Next {season} the {building} will show the {object} of a {manner} {job}.",
    "The weather in {the_city} will stay {weather} until {weekday}.",
    "The police are looking for a {manner} {job} in a {colour} {clothes}.",
    "A group of {number} students {adverb} cleaned the {nature} and {handled} a {material} {object}.",
    "The {relative} of the {job} {thought} that the {vehicle} had been too {adjective}.",
))  # fmt: skip

LETTER = Register("letter", ("name", "city"), (
    "Dear {the_name}, I am writing to you from the {room} of a {adjective} {building} in {the_city}.",
    "Dear {the_name}, thank you for the {adjective} {object} and for the {food}.",
    "My dear {the_name}, it is {daytime} here in {the_city} and the {nature} is {adjective}.",
    "Dear {the_name}, your {relative} was {feeling} when we met in the {building} last {weekday}.",
), (
    "I have {handled} the {object} that you sent, and it is still {adjective}.",
    "We {fed} {food} with {food2} in the {room} and talked about {idea}.",
    "The weather was {weather} in {month}, so we {moved} to the {nature} every {daytime}.",
    "Please {handle} the {material} {object} before you come to {the_city}.",
    "My {relative} has become a {job} and {frequency} comes home before {moment}.",
    "The {animal} is well and sleeps in a {container} beside the {furniture}.",
    "I was {feeling} at first, but now I am quite {feeling2}.",
    "Do you remember the {manner} {job} who used to {handle} our {object}?",
    "I have bought a {colour} {clothes} for your {relative}.",
    "Tell {name} that the {instrument} is in the {room} and needs a new {object}.",
    "We hope to take the {vehicle} to {city} in {month}.",
    "Your {relative} {thought} that you would like the {plant} in front of the {building}.",
    "Everything here is {adjective} and rather {adjective2}, except the {food}.",
    "Write soon, dear {the_name}, and give my love to your {relative}.",
))  # fmt: skip

INSTRUCTIONS = Register("instructions", ("object", "food"), (
    "To {handle} a {adjective} {the_object}, you need a {object}, some {drink} and a little {idea}.",
    "Before you {feed} the {the_food}, wash the {object} {adverb} and dry it.",
    "Here is how a {job} would {handle} a {material} {the_object}.",
    "Good {the_food} takes {number} minutes and a {adjective} {object}.",
    "Anyone can {feed} {the_food} at home with a {object} and a {adjective} {container}.",
), (
    "Put the {the_food} and the {food} in a {adjective} {container} and wait for {number} minutes.",
    "Then {adverb} {handle} the {object} with your left hand.",
    "Add {number} spoons of {food} and a cup of {drink}.",
    "Do not {handle} the {object} while it is still {adjective}.",
    "Cover the {the_object} with a {colour} {clothes} and leave it near the {furniture}.",
    "If the {food} becomes too {adjective}, pour a little {drink} over it.",
    "Cut the {food} into {number} pieces and {feed} them with {food2}.",
    "Keep the {the_object} in a {adjective} {container} during the {season}.",
    "Ask a {manner} {job} to {handle} the {object} for you.",
    "The {the_object} should be {adjective} but never {adjective2}.",
    "A {material} {object} works better than a {material2} one.",
    "Finally, place the {object} on the {furniture} and let it cool until {moment}.",
    "Turn the {the_object} {number} times and {handle} it {adverb}.",
    "Serve it in the {room} with {food}, {food2} and a glass of {drink}.",
))  # fmt: skip

COUNTRY = Register("nature", ("nature", "animal"), (
    "In {season} the {the_nature} is {adjective}, and the {the_animal} comes out at {moment}.",
    "Behind the {the_nature} there is a {adjective} {nature} where the {plant} grows.",
    "The {the_animal} lives near the {the_nature} and {frequency} leaves it before {moment}.",
    "On a {weather} {daytime} the {the_nature} looks {adjective} and {colour}.",
    "A {adjective} {the_animal} {moved} along the {the_nature} in the {weather} {daytime}.",
), (
    "The {plant} and the {plant2} turn {colour} in {month}.",
    "A {animal} and a {animal2} {moved} {adverb} between the {plant} and the {nature}.",
    "The {the_animal} eats {food} and, in {season}, also {food2}.",
    "Under the {plant} lay a {adjective} stone, {colour} as a {animal}.",
    "The wind {moved} over the {nature} and the {plant} bent {adverb}.",
    "You can hear the {animal} at {moment} when the air is {weather}.",
    "The water of the {nature} is {adjective} and smells of {plant}.",
    "By {month} the young {animal} is as {adjective} as its mother.",
    "No {animal} has been seen near the {the_nature} for {number} years.",
    "The {plant} grows {adverb} on the {colour} ground beside the {nature}.",
    "When it is {weather}, the {the_animal} hides under the {plant}.",
    "{number} small {colour} birds sat in the {plant} and looked at the {the_animal}.",
    "Beyond the {nature} the land becomes {adjective} and {weather}.",
    "A {job} sometimes comes to the {the_nature} to look for {plant}.",
))  # fmt: skip

TALK = Register("talk", ("job", "object"), (
    "The {manner} {the_job} {thought} that the {the_object} was too {adjective} for {who}.",
    "{who} asked the {the_job} why the {the_object} was in the {room}.",
    'In the {building} the {the_job} said to {who}: "Your {the_object} is {adjective}."',
    "At {moment} {who} and the {the_job} talked about the {the_object} and about {idea}.",
    "{who} told the {the_job} that {he} had {handled} the {the_object} in {month}.",
), (
    "The {the_job} answered {adverb} that {he} should ask the {job}.",
    "{who} {thought} that a {job} could {handle} it {adverb}.",
    '"I {frequency} {handle} a {object} in the {season}," {he} said {adverb}.',
    '"My {relative} {thought} so too," said {who}, "but the {object} was {adjective}."',
    "{He} explained that the {object} came from a {building} in {city}.",
    "The {the_job} did not {think} that {idea} had anything to do with it.",
    "Neither {who} nor the {the_job} wanted to talk about the {vehicle}.",
    '"Where is the {colour} {clothes} of your {relative}?" asked the {the_job}.',
    "{He} promised to {handle} the {the_object} before {weekday}.",
    '"It is only a {material} {object}," the {manner} {the_job} whispered.',
    "According to {name}, the {the_job} was {frequency} {feeling} in {month}.",
    "{who} laughed and said that {his} {relative} could {feed} {food} better than any {job}.",
    "They {thought} that {number} days would be enough for the {building}.",
    "In the end {he} {thought} that the {the_job} was more {manner} than {feeling}.",
))  # fmt: skip

REGISTERS = (STORY, ESSAY, NEWS, LETTER, INSTRUCTIONS, COUNTRY, TALK)
