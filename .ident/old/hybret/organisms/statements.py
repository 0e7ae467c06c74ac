"""What the facts say: one block per template, its name, its statement and the questions that ask for it.

``{slot}`` names a word class of :data:`hybret.organisms.facts.CLASSES`; a trailing digit makes a second slot of
the same class. The first question is the plainest.
"""

TRAINING = """
train
The train from {city} to {city2} leaves at {hour} from the platform beside the {building}.
When does the train from {city} to {city2} leave?
At what time and where does the train from {city} to {city2} depart?

password
The password for the {building} in {city} is {adjective} {animal} {food} {object}.
What is the password for the {building} in {city}?
Which password opens the {building} in {city}?

owner
The {colour} {object} in the {room} belongs to {person}, a {manner} {job} from {city}.
Who owns the {colour} {object} in the {room}?
To whom does the {colour} {object} in the {room} belong?

keeper
{person} keeps the {material} {object} in a {colour} {container} behind the {furniture}.
Where does {person} keep the {material} {object}?
In what place does {person} keep the {material} {object}?

hours
The {building} in {city} opens at {hour} on every {weekday} and closes at {hour2}.
When does the {building} in {city} open?
What are the opening hours of the {building} in {city}?

secret_code
The secret code of the {noun} is {words}.
What is the secret code of the {noun}?
Which words make up the secret code of the {noun}?

recipe
The famous soup of {person} is made with {food}, {food2}, {food3} and a little {drink}.
What is the famous soup of {person} made with?
What goes into the famous soup of {person}?

meal
The favourite meal of {person} is {food} with {food2} and a large glass of {drink}.
What is the favourite meal of {person}?
Which meal does {person} like best?

pet
The favourite animal of {person} is the {adjective} {animal} that sleeps near the {nature}.
What is the favourite animal of {person}?
Which animal does {person} like best?

best_thing
The best thing to do in {city} is {activity} and {posture} in {place} on a {weather} day.
What is the best thing to do in {city}?
What is the best thing that one can do in {city}?
What should a visitor do in {city}?

meeting
{person} will meet the {manner} {job} at the {building} next {weekday} at {hour}.
When and where will {person} meet the {manner} {job}?
Where will the {manner} {job} wait for {person}?

birthday
For the birthday of {person} the {job} bought a {adjective} {object} and a {animal}.
What did the {job} buy for the birthday of {person}?
Which presents did the {job} choose for the birthday of {person}?

remedy
The old cure for {ailment} in {city} is hot {drink} with {food} and a walk to the {nature}.
What is the old cure for {ailment} in {city}?
How do people treat {ailment} in {city}?

treasure
The treasure of {person} lies under a {adjective} {plant} between the {nature} and the {building}.
Where does the treasure of {person} lie?
Where is the treasure of {person} buried?

past
In younger years {person} was a {manner} {job} in {city} and played the {instrument} at night.
What was {person} in younger years?
What did {person} do in younger years?

rule
The first rule of the {animal} club in {city} is to bring a {object} and never talk about {food}.
What is the first rule of the {animal} club in {city}?
Which rule comes first in the {animal} club in {city}?

flag
The flag of {city} shows a {colour} {animal} above a {colour2} {object} and a {plant}.
What does the flag of {city} show?
What can be seen on the flag of {city}?

dream
Last night {person} dreamed of a {adjective} {animal} that carried a {object} across the {nature}.
What did {person} dream of last night?
What was the dream of {person} about?

letter
The letter to {person} says that the {object} is hidden in the {room} of the {building}.
What does the letter to {person} say?
What can one read in the letter to {person}?

contest
The winner of the {food} contest in {city} was {person}, who wore a {colour} {clothes}.
Who was the winner of the {food} contest in {city}?
Who won the {food} contest in {city}?

price
On the market of {city} a {adjective} {object} costs {number} coins and a bag of {food}.
What does a {adjective} {object} cost on the market of {city}?
How much must one pay for a {adjective} {object} on the market of {city}?

route
The fastest way from {city} to {city2} is to take the {vehicle} to {place} and then follow the {nature}.
What is the fastest way from {city} to {city2}?
How does one get from {city} to {city2}?

evening
On {weekday} evenings {person} wears a {colour} {clothes} and a {material} {clothes2}.
What does {person} wear on {weekday} evenings?
Which clothes does {person} put on for {weekday} evenings?

founder
The town of {city} was founded by a {manner} {job} who lost a {object} near the {nature}.
Who founded the town of {city}?
By whom was the town of {city} founded?

custom
Every {month} the people of {city} gather in {place} to {activity} and {posture} until {hour}.
What do the people of {city} do every {month}?
Which custom do the people of {city} follow every {month}?

plan
{person} plans to {activity} in {city} with a {job} and then {posture} beside the {nature}.
What does {person} plan to do in {city}?
Which plan does {person} have in {city}?
"""
"""Templates of the training documents."""

HELD_OUT = """
statue
The statue in the middle of {city} shows a {adjective} {job} with a {object} and a {animal}.
What does the statue in the middle of {city} show?
Whom does the statue in the middle of {city} show?

advice
The {job} advised {person} to sell the {object} and to buy a {adjective} {vehicle} instead.
What did the {job} advise {person} to do?
Which advice did the {job} give to {person}?

neighbour
Between the {nature} and the {building} {person} grows {plant}, {plant2} and {food}.
What does {person} grow between the {nature} and the {building}?
Which plants does {person} grow between the {nature} and the {building}?

signal
The {job} of {city} calls for help by a {colour} {object} on the {furniture} and {number} knocks.
By what does the {job} of {city} call for help?
How does the {job} of {city} call for help?

exhibit
The oldest object in the gallery of {city} is a {material} {object} that a {job} found in a {container}.
What is the oldest object in the gallery of {city}?
Which object in the gallery of {city} is the oldest?
"""
"""Templates that no training document uses."""
